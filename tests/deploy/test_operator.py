"""The operator's looks against an API server in memory, a real Penstock api, and pods that are workers' leases."""

from __future__ import annotations

import asyncio
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from lightkube import AsyncClient, KubeConfig

from broker.settings import BrokerSettings
from deploy.operator.acting import Acting, StepError
from deploy.operator.looking import Looking
from deploy.operator.reconciling import Reconciling
from penstock import AsyncPenstock
from penstock.server.valkey import EmbeddedServer
from tests.adapters import write_adapter
from tests.apiserver import ApiServer
from tests.deploy.operators import CRD, LEAST, NAMESPACE, a_pool, base_of
from tests.deploy.pods import LeasedWorker
from tests.kubernetes import Cluster
from tests.kubernetes.controller import COST, Controller
from tests.kubernetes.kinds import Object
from tests.namespaces import check_and_empty, new_namespace

pytestmark = pytest.mark.asyncio

NAME = "penstock-worker-chat"
PATH = f"/apis/penstock.dev/v1alpha1/namespaces/{NAMESPACE}/modelpools/chat"
KEY = ("penstock.dev/v1alpha1", "modelpools", NAMESPACE, "chat")


class Stopped(BaseException):
    """The operator ends here, as SIGKILL has it."""


class Cut:
    """Counts the writes of an operator, and ends it before one of them; 0: before none.

    Attributes:
        forbidden: methods that Penstock refuses.
    """

    def __init__(self, at: int = 0, forbidden: frozenset[str] = frozenset()) -> None:
        self.writes, self._at = 0, at
        self.forbidden = forbidden

    def pass_on(self, method: str) -> None:
        """Count a request.

        Raises:
            Stopped: it is not sent.
        """
        if method != "GET":
            self.writes += 1
            if self.writes == self._at:
                raise Stopped


class KubeCut(httpx2.AsyncHTTPTransport):
    """On the way to the API server."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self._cut = cut

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._cut.pass_on(request.method)
        return await super().handle_async_request(request)


class PenstockCut(httpx.AsyncHTTPTransport):
    """On the way to Penstock."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self._cut = cut

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._cut.pass_on(request.method)
        if request.method in self._cut.forbidden:
            error = {"message": "not with this key", "type": "permission_error", "code": "forbidden"}
            return httpx.Response(403, json={"error": error})
        return await super().handle_async_request(request)


class World:
    """A cluster with pods that are leases, a Penstock, and the operator between them."""

    def __init__(
        self, cluster: Cluster, controller: Controller, busy: dict[str, int], api: str, config: Path
    ) -> None:
        self.cluster, self.controller, self.busy = cluster, controller, busy
        self._api, self._config = api, config
        self.events: list[str] = []
        self.release_after_s = 0.5

    def operator(self, cut: Cut | None = None) -> Reconciling:
        """Return a new operator, which knows nothing."""
        cut = cut or Cut()
        config = KubeConfig.from_file(self._config)
        self.kube = AsyncClient(config=config, namespace=NAMESPACE, transport=KubeCut(cut))
        self.http = httpx.AsyncClient(transport=PenstockCut(cut))
        self.penstock = AsyncPenstock(self._api, max_retries=0, http_client=self.http)
        place = (self.kube, self.penstock, NAMESPACE)
        base = base_of(*LEAST)
        return Reconciling(base, Looking(*place, base.instance), Acting(*place), self.release_after_s)

    async def close(self) -> None:
        await self.kube.close()
        await self.penstock.close()
        await self.http.aclose()

    @property
    def pool(self) -> Object:
        return self.cluster.store.all[KEY]

    def want(self, **spec: Any) -> None:
        """Create the ModelPool, or change its spec."""
        if KEY not in self.cluster.store.all:
            self.cluster.create(a_pool(**spec), namespace=NAMESPACE)
        else:
            assert self.cluster.write("PUT", KEY, self.pool | {"spec": a_pool(**spec)["spec"]})[0] == 200

    def delete(self) -> None:
        with self.cluster.store.changed:
            self.cluster.store.put(
                KEY, {**self.pool, "metadata": self.pool["metadata"] | {"finalizers": ["operator"]}}
            )
            self.cluster.store.delete(KEY)

    async def look(self, operator: Reconciling) -> bool:
        """Look once; return whether something goes on."""
        if "deletionTimestamp" not in self.pool["metadata"]:
            return (await operator.look(self.pool, self._tell)).phase is not None
        try:
            if not await operator.end(self.pool, self._tell):
                return True
        except StepError:
            return True
        self.cluster.store.delete(KEY, now=True)
        return False

    def _tell(self, kind: str, reason: str, message: str) -> None:
        self.events.append(reason)

    async def settle(self, until: Callable[[], bool] = lambda: True, cut: Cut | None = None) -> None:
        """Look until nothing is to do and a condition is true."""
        operator = self.operator(cut)
        try:
            async with asyncio.timeout(30):
                while KEY in self.cluster.store.all and (await self.look(operator) or not until()):
                    await asyncio.sleep(0.02)
        finally:
            await self.close()

    def deployments(self) -> dict[str, tuple[int, str]]:
        """Return the replicas and the model's fingerprint of each Deployment."""
        return {
            name: (one["spec"].get("replicas", 1), one["metadata"]["annotations"]["penstock.dev/fingerprint"])
            for name, one in self.cluster.named("Deployment").items()
        }

    def pods(self) -> list[str]:
        return sorted(self.cluster.named("Pod"))

    async def state(self) -> Any:
        """Return all that counts: objects, and what Penstock says, without names that differ from run to run."""
        async with AsyncPenstock(self._api) as client:
            declared = [one.id for one in await client.pools.declared()]
            rollouts = [one.current.pool for one in await client.rollouts.list()]
            workers = sorted(one.pool for one in await client.workers.list())
        kinds = ("ConfigMap", "ScaledObject", "ModelPool")
        names = {kind: sorted(self.cluster.named(kind)) for kind in kinds}
        marks = [one for one in self.cluster.named("Pod").values() if COST in one["metadata"]["annotations"]]
        return self.deployments(), names, len(self.pods()), len(marks), declared, rollouts, workers


@pytest.fixture(scope="module")
def shared_api(valkey: EmbeddedServer) -> Iterator[ApiServer]:
    with ApiServer(new_namespace(valkey)) as server:
        yield server


@pytest.fixture
def broker_settings(shared_api: ApiServer) -> Iterator[BrokerSettings]:
    yield BrokerSettings(redis_url=shared_api.settings.redis_url, namespace=shared_api.settings.namespace)
    try:
        check_and_empty(shared_api.settings)
    finally:
        shared_api.renew()


@contextmanager
def a_world(api: ApiServer, settings: BrokerSettings, folder: Path) -> Iterator[World]:
    busy: dict[str, int] = {}

    def start(pod: Object, said: Object) -> LeasedWorker:
        return LeasedWorker(settings, busy, pod, said)

    with Cluster(controlled=True) as cluster, Controller(cluster, start) as controller:
        cluster.create(CRD)
        config = cluster.kubeconfig(folder / "config", token="operator", namespace=NAMESPACE)
        yield World(cluster, controller, busy, api.url, config)


@pytest.fixture
def world(shared_api: ApiServer, broker_settings: BrokerSettings, tmp_path: Path) -> Iterator[World]:
    with a_world(shared_api, broker_settings, tmp_path) as world:
        yield world


def conditions(world: World) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in world.pool["status"]["conditions"]}


@pytest.mark.full
async def test_a_pool_comes_scales_rolls_out_and_goes(world: World) -> None:
    world.want(replicas=2)
    await world.settle(lambda: len(world.pods()) == 2)
    assert conditions(world) == {
        "Ready": ("True", "WorkersReady"),
        "Progressing": ("False", "Settled"),
        "Degraded": ("False", "AllIsWell"),
    }
    assert world.pool["status"]["ready"] == 2
    first = world.deployments()[NAME][1]

    world.want(replicas=1)
    await world.settle(lambda: len(world.pods()) == 1)

    world.want(replicas=1, model="org/model-2")
    await world.settle(lambda: f"{NAME}-v2" in world.deployments() and len(world.deployments()) == 1)
    assert world.deployments()[f"{NAME}-v2"][1] != first
    assert world.pool["status"]["version"] == "chat-v2"
    _, names, pods, *_, declared, rollouts, workers = await world.state()
    assert names["ConfigMap"] == [f"{NAME}-v2"]
    assert (pods, declared, rollouts, workers) == (1, [], ["chat-v2"], ["chat-v2"])

    world.delete()
    await world.settle()
    assert not [one for one in world.cluster.objects if one[1] not in {"customresourcedefinitions", "events"}]
    async with AsyncPenstock(world._api) as client:
        assert await client.pools.declared() == ()
        assert await client.workers.list() == ()
    assert {"Starting", "Scaling", "Draining", "Switched", "Removed"} <= set(world.events)


async def test_the_least_busy_worker_goes(world: World) -> None:
    world.busy.update({f"{NAME}-1": 5, f"{NAME}-2": 0, f"{NAME}-3": 7})
    world.want(replicas=3)
    await world.settle(lambda: len(world.pods()) == 3)
    world.want(replicas=2)
    await world.settle(lambda: len(world.pods()) == 2)
    assert world.pods() == [f"{NAME}-1", f"{NAME}-3"]
    assert world.controller.gone == [f"{NAME}-2"]


async def test_a_changed_pod_is_the_same_version(world: World) -> None:
    world.want()
    await world.settle(lambda: len(world.pods()) == 1)
    world.want(resources={"limits": {"memory": "1Gi"}})
    await world.settle(lambda: world.pods() == [f"{NAME}-2"])
    assert world.deployments().keys() == {NAME}


async def test_a_version_that_cannot_start_leaves_the_one_that_serves(world: World) -> None:
    world.controller.stuck.add(f"{NAME}-v2")
    world.want()
    await world.settle(lambda: len(world.pods()) == 1)
    world.want(model="org/broken")
    operator = world.operator()
    while conditions(world)["Degraded"] != ("True", "VersionNotReady"):
        await world.look(operator)
        await asyncio.sleep(0.02)
    await world.close()
    assert conditions(world)["Ready"] == ("True", "WorkersReady")
    assert world.pool["status"]["version"] == "chat"
    assert "VersionNotReady" in world.events
    world.want()
    await world.settle(lambda: world.deployments().keys() == {NAME})
    assert conditions(world)["Degraded"] == ("False", "AllIsWell")


async def test_a_version_that_penstock_refuses_says_why(world: World) -> None:
    world.want(servedModelName="chat-model")
    await world.settle(lambda: len(world.pods()) == 1)
    world.want(servedModelName="another-name")
    operator = world.operator()
    while conditions(world)["Degraded"] != ("True", "VersionRefused"):
        await world.look(operator)
        await asyncio.sleep(0.02)
    await world.close()
    (told,) = (one["message"] for one in world.pool["status"]["conditions"] if one["type"] == "Degraded")
    assert "does not serve 'chat-model'" in told


async def test_a_chart_s_pool_of_the_same_name_is_left_alone(world: World) -> None:
    theirs: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "x",
            "labels": {"app.kubernetes.io/component": "worker", "penstock.dev/pool": "chat"},
        },
        "spec": {"replicas": 0, "template": {"metadata": {}}},
    }
    world.cluster.create(theirs, namespace=NAMESPACE)
    world.want()
    await world.settle()
    assert conditions(world)["Degraded"] == ("True", "PoolTaken")
    assert world.cluster.named("Deployment").keys() == {"x"}
    labels = theirs["metadata"]["labels"] | {
        "app.kubernetes.io/instance": "another"
    }  # with a Redis of its own
    world.cluster.write("PATCH", ("apps/v1", "deployments", NAMESPACE, "x"), {"metadata": {"labels": labels}})
    await world.settle(lambda: len(world.pods()) == 1)
    assert world.cluster.named("Deployment").keys() == {"x", NAME}


async def test_without_penstock_nothing_is_changed_and_a_deletion_ends(world: World) -> None:
    world.want()
    await world.settle(lambda: len(world.pods()) == 1)
    world._api = "http://127.0.0.1:1"
    world.want(replicas=5)
    await world.settle()
    assert conditions(world)["Ready"] == ("Unknown", "PenstockAway")
    assert world.deployments()[NAME][0] == 1
    assert world.pool["status"]["ready"] == 1  # as it was known
    world.delete()
    await world.settle()
    assert world.deployments() == {}
    assert world.events[-1] == "LeftInPenstock"


async def test_a_deletion_ends_although_penstock_refuses(world: World) -> None:
    world.want(scaling={"min": 0, "max": 2, "slots": 8})
    await world.settle(lambda: len(world.pods()) == 1)
    world.delete()
    await world.settle(cut=Cut(forbidden=frozenset({"DELETE"})))
    assert world.deployments() == {}
    assert world.events[-1] == "LeftInPenstock"


async def test_a_deletion_takes_the_declaration_back_once_penstock_answers_again(world: World) -> None:
    world.want(scaling={"min": 0, "max": 2, "slots": 8})
    await world.settle(lambda: len(world.pods()) == 1)
    world.release_after_s = 60.0
    api, world._api = world._api, "http://127.0.0.1:1"
    world.delete()
    operator = world.operator()
    while world.pods():
        assert await world.look(operator)  # its finalizer holds it
        await asyncio.sleep(0.02)
    await world.close()
    world._api = api
    await world.settle()
    async with AsyncPenstock(api) as client:
        assert await client.pools.declared() == ()
    assert "LeftInPenstock" not in world.events


async def test_without_surge_the_old_workers_end_before_the_new_ones_start(world: World) -> None:
    world.want(surge=False)
    await world.settle(lambda: len(world.pods()) == 1)
    together: set[int] = set()

    def new_serves() -> bool:
        together.add(len({one.removesuffix("-1") for one in world.pods()}))
        return world.deployments().keys() == {f"{NAME}-v2"} and len(world.pods()) == 1

    world.want(surge=False, model="org/model-2")
    await world.settle(new_serves)
    assert together <= {0, 1}
    assert world.pool["status"]["version"] == "chat-v2"
    _, _, _, _, declared, *_ = await world.state()
    assert declared == []


async def test_a_wrong_setting_is_a_condition(world: World) -> None:
    world.want(settings={"bulk_reserv": 0.5})
    await world.settle()
    assert conditions(world)["Degraded"] == ("True", "SettingsRefused")
    assert world.deployments() == {}
    world.want(settings={"bulk_reserve": 0.5})
    await world.settle(lambda: len(world.pods()) == 1)
    assert conditions(world)["Degraded"] == ("False", "AllIsWell")


async def test_keda_gets_its_object_and_the_replicas(world: World) -> None:
    scaling = {"min": 0, "max": 4, "slots": 8}
    world.want(scaling=scaling)
    await world.settle(lambda: len(world.pods()) == 1)
    assert world.cluster.named("ScaledObject")[NAME]["spec"]["minReplicaCount"] == 0
    deployment = world.cluster.named("Deployment")[NAME]
    world.cluster.write("PATCH", ("apps/v1", "deployments", NAMESPACE, NAME), {"spec": {"replicas": 0}})
    await world.settle(lambda: not world.pods())
    assert world.deployments()[NAME][0] == 0
    assert conditions(world)["Ready"] == ("True", "Asleep")
    world.want(scaling=scaling, model="org/model-2")
    await world.settle(lambda: len(world.deployments()) == 1 and f"{NAME}-v2" in world.deployments())
    assert world.cluster.named("ScaledObject").keys() == {f"{NAME}-v2"}
    assert (
        deployment["spec"]["selector"] != world.cluster.named("Deployment")[f"{NAME}-v2"]["spec"]["selector"]
    )


async def test_without_keda_a_pool_has_replicas_and_scaling_says_what_is_missing(world: World) -> None:
    world.cluster.store.missing.add("keda.sh/v1alpha1")
    world.want()
    await world.settle(lambda: len(world.pods()) == 1)
    assert conditions(world)["Degraded"] == ("False", "AllIsWell")
    world.want(scaling={"max": 2, "slots": 8})
    await world.settle()
    assert conditions(world)["Degraded"] == ("True", "KedaMissing")


async def test_a_field_that_somebody_changed_is_set_back(world: World) -> None:
    world.want()
    await world.settle(lambda: len(world.pods()) == 1)
    key = ("apps/v1", "deployments", NAMESPACE, NAME)
    world.cluster.write("PATCH", key, {"spec": {"strategy": {"type": "Recreate"}}})
    await world.settle()
    assert world.cluster.objects[key]["spec"]["strategy"]["type"] == "RollingUpdate"


async def test_adapters_come_are_pinned_and_go(world: World, tmp_path: Path) -> None:
    async def upload() -> str:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as files:
            files.add(write_adapter(tmp_path / "sql", base_model_name_or_path="org/chat"), "sql")
        async with httpx.AsyncClient(base_url=world._api) as http:
            sent = {"file": ("sql.tar", tar.getvalue())}
            return str((await http.post("/v1/files", files=sent, data={"purpose": "user_data"})).json()["id"])

    async def there() -> list[tuple[str, bool]]:
        async with AsyncPenstock(world._api) as client:
            return [(one.name, one.pinned) async for one in client.adapters.list(pool="chat")]

    source = await upload()
    world.want(adapters=[{"name": "none", "source": "file-0"}, {"name": "sql", "source": source}])
    await world.settle(lambda: world.pool.get("status", {}).get("adapters") == ["sql"])
    assert await there() == [("sql", False)]
    assert conditions(world)["Degraded"] == ("True", "AdapterRefused")
    world.want(adapters=[{"name": "sql", "source": source, "pinned": True}])
    await world.settle()
    assert await there() == [("sql", True)]
    assert conditions(world)["Degraded"] == ("False", "AllIsWell")
    world.want()
    await world.settle(lambda: world.pool["status"]["adapters"] == [])
    assert await there() == []


FLOWS: dict[str, list[dict[str, Any] | None]] = {
    "create": [{"replicas": 2}],
    "scale down": [{"replicas": 3}, {"replicas": 1}],
    "new model": [{"replicas": 2}, {"replicas": 2, "model": "org/model-2"}],
    "scaling": [{"replicas": 1}, {"scaling": {"min": 1, "max": 2, "slots": 8}}],
    "delete": [{"scaling": {"min": 0, "max": 2, "slots": 8}}, None],
}


def as_wanted(world: World, spec: dict[str, Any] | None) -> bool:
    if spec is None:
        return KEY not in world.cluster.store.all
    replicas = spec.get("replicas", 1)
    return len(world.deployments()) == 1 and len(world.pods()) == replicas


async def run(world: World, flow: list[dict[str, Any] | None], cut: Cut) -> Any:
    """Run a flow, its last part with an operator that ends at a write, then another; return what is there then."""
    for spec in flow:
        if spec is None:
            world.delete()
        else:
            world.want(**spec)
        if spec is flow[-1]:
            with suppress(Stopped):
                await world.settle(partial(as_wanted, world, spec), cut)
        await world.settle(partial(as_wanted, world, spec))
    return await world.state()


@pytest.mark.full
@pytest.mark.parametrize("flow", FLOWS)
async def test_an_operator_that_ends_at_any_write_is_followed_by_one_that_goes_on(
    flow: str, shared_api: ApiServer, tmp_path: Path
) -> None:
    whole: Any = None
    for at in itertools.count():
        cut = Cut(at)
        settings = BrokerSettings(
            redis_url=shared_api.settings.redis_url, namespace=shared_api.settings.namespace
        )
        with a_world(shared_api, settings, tmp_path) as world:
            state = await run(world, FLOWS[flow], cut)
        check_and_empty(shared_api.settings)
        shared_api.renew()
        whole = whole or state
        assert state == whole, f"it ended before its write {at}"
        if at and cut.writes < at:
            break
    assert at > len(FLOWS[flow])
