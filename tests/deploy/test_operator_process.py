"""The operator as it runs: kopf in a process of its own, with the rights that the chart gives it, and SIGKILL."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.settings import BrokerSettings
from penstock import AsyncPenstock
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.deploy.operators import CRD, LEAST, NAMESPACE, a_pool, base_text
from tests.deploy.pods import LeasedWorker, WorkerPod
from tests.environment import clean
from tests.forked import ForkedProcess
from tests.helm import ROOT, rendered
from tests.kubernetes import Cluster
from tests.kubernetes.access import Act, allowed
from tests.kubernetes.controller import Container, Controller
from tests.kubernetes.kinds import Object
from tests.namespaces import check_and_empty, new_namespace
from tests.support import eventually

pytestmark = pytest.mark.asyncio

NAME = "penstock-worker-chat"
KEY = ("penstock.dev/v1alpha1", "modelpools", NAMESPACE, "chat")
TOKEN = "operator"
FOR_THE_CLUSTERS_OWN_CHECK = {Act("update", "penstock.dev", "modelpools/finalizers")}


class World:
    """A cluster whose ModelPools an operator in a process makes.

    Args:
        start: starts a pod's container.
    """

    def __init__(
        self,
        cluster: Cluster,
        controller: Controller,
        settings: BrokerSettings,
        url: str,
        folder: Path,
        look_every_s: float,
    ) -> None:
        self._look_every_s = look_every_s
        self.cluster, self.controller, self.settings, self.url = cluster, controller, settings, url
        self._folder = folder
        (role,) = (
            one
            for one in rendered(*LEAST)
            if (one["kind"], one["metadata"]["name"]) == ("Role", "penstock-operator")
        )
        self.rules = role["rules"]
        cluster.access.restrict(TOKEN, self.rules)
        cluster.create(CRD)
        (folder / "base.yaml").write_text(base_text(*LEAST))
        self._config = cluster.kubeconfig(folder / "config", token=TOKEN, namespace=NAMESPACE)
        self.log = folder / "operator.log"
        self.process = self.start()

    def start(self) -> ForkedProcess:
        """Start the operator."""
        env = clean() | {
            "KUBECONFIG": str(self._config),
            "OPERATOR_NAMESPACE": NAMESPACE,
            "OPERATOR_BASE_FILE": str(self._folder / "base.yaml"),
            "OPERATOR_LOOK_EVERY_S": str(self._look_every_s),
            "OPERATOR_HURRY_S": "0.1",
            "OPERATOR_HEALTH_PORT": "0",
            "PENSTOCK_URL": self.url,
        }
        self.process = ForkedProcess("deploy.operator.__main__:main", {}, self.log, ROOT, env)
        return self.process

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def want(self, **spec: Any) -> None:
        """Create the ModelPool, or change its spec."""
        store = self.cluster.store
        with store.changed:
            if KEY not in store.all:
                self.cluster.create(a_pool(**spec), namespace=NAMESPACE)
            else:
                store.put(KEY, {**store.all[KEY], "spec": a_pool(**spec)["spec"]})

    def delete(self) -> None:
        self.cluster.store.delete(KEY)

    def condition(self, kind: str) -> tuple[str, str]:
        found = self.cluster.store.all[KEY].get("status", {}).get("conditions", [])
        return next(((one["status"], one["reason"]) for one in found if one["type"] == kind), ("", ""))

    def settled(self, replicas: int, version: str = "chat") -> Callable[[], bool]:
        """Return whether these workers serve, and nothing else is there."""

        def look() -> bool:
            status = self.cluster.store.all[KEY].get("status", {})
            return (
                self.condition("Progressing") == ("False", "Settled")
                and (status["version"], status["ready"], status["desired"]) == (version, replicas, replicas)
                and status["observedGeneration"] == self.cluster.store.all[KEY]["metadata"]["generation"]
                and self.cluster.named("Deployment").keys() == {f"penstock-worker-{version}"}
                and len(self.cluster.named("Pod")) == replicas
            )

        return look

    def gone(self) -> bool:
        kinds = ("ModelPool", "Deployment", "ConfigMap", "ScaledObject", "Pod")
        return not any(self.cluster.named(kind) for kind in kinds)


@contextmanager
def a_world(
    valkey: EmbeddedServer,
    folder: Path,
    start: Callable[[BrokerSettings, Object, Object], Container],
    look_every_s: float = 1.0,
) -> Iterator[World]:
    settings = new_namespace(valkey)

    def begin(pod: Object, said: Object) -> Container:
        return start(settings, pod, said)

    with (
        ApiServer(settings) as api,
        Cluster(controlled=True) as cluster,
        Controller(cluster, begin) as controller,
    ):
        world = World(cluster, controller, settings, api.url, folder, look_every_s)
        try:
            yield world
        finally:
            world.kill()
    check_and_empty(settings)


async def test_kopf_carries_a_pool_through_its_life_with_the_rights_of_the_chart(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    with a_world(
        valkey, tmp_path, lambda settings, pod, said: LeasedWorker(settings, {}, pod, said)
    ) as world:
        world.want(replicas=2)
        await eventually(world.settled(2))
        assert world.condition("Ready") == ("True", "WorkersReady")
        world.cluster.cut_watches()
        world.want(replicas=1)
        await eventually(world.settled(1))
        world.cluster.store.compact()  # watches that begin again are told 410 Gone
        world.cluster.cut_watches()
        world.want(scaling={"min": 1, "max": 2, "slots": 8}, model="org/model-2")
        await eventually(world.settled(1, "chat-v2"))
        assert world.cluster.named("ScaledObject").keys() == {f"{NAME}-v2"}
        world.want(replicas=1, model="org/model-2")
        await eventually(lambda: not world.cluster.named("ScaledObject") and world.settled(1, "chat-v2")())
        world.delete()
        await eventually(world.gone)
        reasons = {one["reason"] for one in world.cluster.named("Event").values()}
        assert reasons == {"Starting", "Scaling", "Draining", "Switched", "Removed"}
        asked = world.cluster.access.asked[TOKEN]
        assert asked <= allowed(world.rules), world.log.read_text()
        assert allowed(world.rules) - asked == FOR_THE_CLUSTERS_OWN_CHECK
        assert world.process.poll() is None


@pytest.mark.full
async def test_its_own_reports_do_not_have_it_look_again(valkey: EmbeddedServer, tmp_path: Path) -> None:
    workers: list[LeasedWorker] = []

    def start(settings: BrokerSettings, pod: Object, said: Object) -> LeasedWorker:
        workers.append(LeasedWorker(settings, {}, pod, said))  # its tokens a second are others at each beat
        return workers[-1]

    with a_world(valkey, tmp_path, start, look_every_s=3600) as world:
        world.want()
        await eventually(world.settled(1))
        reports: list[Act] = []
        world.cluster.after_write = reports.append
        beats = workers[0].beats
        await eventually(lambda: workers[0].beats > beats + 30)
        assert len(reports) <= 3, reports  # of looks that were under way
        world.process.send_signal(signal.SIGTERM)
        assert world.process.wait(15) == 0


@pytest.mark.full
async def test_a_deletion_at_any_moment_ends(valkey: EmbeddedServer, tmp_path: Path) -> None:
    with a_world(
        valkey, tmp_path, lambda settings, pod, said: LeasedWorker(settings, {}, pod, said)
    ) as world:
        for _ in range(3):  # with nothing to drain
            world.want(replicas=0)
            await eventually(world.settled(0))
            world.delete()
            await eventually(world.gone)
        for number in range(3):  # in the middle of a rollout
            world.want()
            await eventually(lambda: len(world.cluster.named("Pod")) == 1)
            world.want(model=f"org/another-{number}")
            await eventually(lambda: len(world.cluster.named("Deployment")) == 2)
            world.delete()
            await eventually(world.gone)


STAGES: dict[str, tuple[dict[str, Any] | None, int, str, list[Act]]] = {
    "create": ({"replicas": 2}, 2, "chat", [Act("patch", "apps", "deployments")]),
    "scale down": ({"replicas": 1}, 1, "chat", [Act("patch", "", "pods")]),
    "new model": (
        {"replicas": 1, "model": "org/model-2"},
        1,
        "chat-v2",
        [Act("patch", "", "configmaps"), Act("delete", "", "configmaps")],
    ),
    "delete": (None, 0, "", [Act("patch", "apps", "deployments")]),
}
"""What is asked for, the workers and the version at the end, and after which writes the operator is killed."""


def kill_after(world: World, at: Act, act: Act) -> None:
    if act == at:
        world.process.kill()


@pytest.mark.full
async def test_real_workers_serve_through_every_stage_while_the_operator_is_killed_in_the_middle(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    def start(settings: BrokerSettings, pod: Object, said: Object) -> WorkerPod:
        return WorkerPod(settings, tmp_path, pod, said)

    with a_world(valkey, tmp_path, start) as world:
        for stage, (spec, replicas, version, kills) in STAGES.items():
            calls = (
                asyncio.create_task(keep_calling(world.url)) if stage in {"scale down", "new model"} else None
            )
            for number, at in enumerate(kills):
                world.cluster.after_write = partial(kill_after, world, at)
                if number == 0 and spec is None:
                    world.delete()
                elif number == 0:
                    world.want(**spec)
                await eventually(lambda: world.process.poll() is not None, 30)
                world.cluster.after_write = lambda _: None
                world.process.wait(10)
                world.start()
            if spec is None:
                await eventually(world.gone, 60)
            else:
                await eventually(world.settled(replicas, version), 60)
            if calls is not None:
                calls.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await calls
                assert KEPT_CALLING[-1] > 0
        async with AsyncPenstock(world.url) as client:
            assert await client.workers.list() == ()
            assert await client.pools.declared() == ()


KEPT_CALLING: list[int] = []


async def keep_calling(url: str) -> None:
    """Call the model until it is cancelled. Every call must succeed."""
    KEPT_CALLING.append(0)
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        while True:
            body = {"model": "chat", "messages": [{"role": "user", "content": "a b c"}], "max_tokens": 3}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            KEPT_CALLING[-1] += 1
            await asyncio.sleep(0.02)
