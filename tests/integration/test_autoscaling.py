"""What autoscalers see of a pool: the endpoint, and the metrics of the same numbers. Real Valkey, api and coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import gjson
import httpx
import openai
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from broker.backlogs import Backlogs
from broker.declared import DeclaredPools
from broker.jobs import JobStore
from jobs.declared import DeclaredPool
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.batching import create, ended, row
from tests.coordinators import CoordinatorThread
from tests.helm import rendered
from tests.integration.test_fair_queue import spec
from tests.integration.test_worker import ready, start_worker
from tests.namespaces import new_namespace
from tests.puppet import FACTS, Puppet
from tests.support import eventually

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

CHAT = DeclaredPool(pool="chat", model="m", slots=4)


@pytest.fixture(scope="module")
def shared_api(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    settings, files = new_namespace(valkey), str(tmp_path_factory.mktemp("files"))
    with CoordinatorThread(settings, files_url=files), ApiServer(settings, files_url=files) as server:
        yield server


@pytest_asyncio.fixture
async def client(api: ApiServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest_asyncio.fixture(autouse=True)
async def declared(store: JobStore) -> None:
    await DeclaredPools(store).put(CHAT)


async def read(http: httpx.AsyncClient, pool: str = "chat", **query: Any) -> dict[str, Any]:
    got = await http.get(f"/v1/autoscaling/{pool}", params=query)
    assert got.status_code == 200, got.text
    return got.json()


async def told(http: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    """Wait until the endpoint says this."""

    async def says() -> dict[str, Any] | None:
        got = await http.get("/v1/autoscaling/chat")
        seen = got.json()
        return seen if got.status_code == 200 and wanted.items() <= seen.items() else None

    return await eventually(says)


async def gauges(http: httpx.AsyncClient) -> dict[str, float]:
    text = (await http.get("/metrics")).text
    lines = [line for line in text.splitlines() if 'pool="chat"' in line]
    return {name: float(line.split()[-1]) for line in lines if (name := line.partition("{")[0])}


async def test_a_pool_without_a_worker_has_numbers(http, store) -> None:
    assert await told(http, pool="chat") == {
        "object": "autoscaling",
        "pool": "chat",
        "value": 0,
        "queued": 0,
        "running": 0,
        "slots": 0,
        "workers": 0,
        "slots_per_replica": 4,
        "oldest_s": 0.0,
        "deadline_in_s": None,
        "deadline_replicas": 0,
        "replicas_wanted": 0,
    }
    for _ in range(9):
        await store.accept(spec(pool="chat", model="m"))
    seen = await read(http)
    assert (seen["value"], seen["queued"], seen["replicas_wanted"]) == (9, 9, 3)
    assert seen["oldest_s"] > 0
    assert (await read(http, target=3))["replicas_wanted"] == 1
    unknown = await http.get("/v1/autoscaling/nobody")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "pool_not_found")
    assert (await http.get("/v1/autoscaling/chat", params={"target": 0})).status_code == 400


async def test_workers_and_running_jobs_count(http, store) -> None:
    one = Puppet(store, "w-1", "chat")
    await one.live("m", capacity=6)
    for _ in range(3):
        await store.accept(spec(pool="chat", model="m"))
    claim = await one.take()
    seen = await told(http, workers=1, running=1)
    assert (seen["queued"], seen["value"], seen["slots"], seen["slots_per_replica"]) == (2, 3, 6, 4)
    await one.succeed(claim)
    assert (await read(http))["value"] == 2


async def test_slots_and_start_of_the_last_worker_stay_known(http, store) -> None:
    await DeclaredPools(store).put(DeclaredPool(pool="chat", model="m"))
    one = Puppet(store, "w-1", "chat")
    await one.live("m", facts=FACTS | {"capacity": 7, "start_s": 30.0})
    await told(http, workers=1, slots_per_replica=7)
    await store.bury(one.name)
    await told(http, workers=0, slots_per_replica=7)


async def test_the_first_deadline_of_what_waits(http, store) -> None:
    await store.client.hset(store.keys("pool", "chat"), "run", 100_000)
    await store.accept(spec(pool="chat", model="m", expires_in_ms=5_000_000))
    await store.accept(spec(pool="chat", model="m", queue_timeout_ms=400_000, lane=Lane.LOW))
    await store.accept(spec(pool="other", model="o", expires_in_ms=100_000))
    seen = await told(http, queued=2)
    assert 300 < seen["deadline_in_s"] <= 400
    assert (seen["deadline_replicas"], seen["replicas_wanted"]) == (1, 1)
    for _ in range(78):
        await store.accept(spec(pool="chat", model="m"))
    for _ in range(100):  # they come after
        await store.accept(spec(pool="chat", model="m", lane=Lane.BULK))
    # 80 runs of 100 s in 400 s: 20 slots, 5 workers.
    seen = await read(http, target=100)
    assert seen["deadline_replicas"] in {5, 6}  # a moment has passed
    assert seen["replicas_wanted"] == seen["deadline_replicas"]


async def test_rows_of_a_batch_count_and_its_chunks_do_not(http, client, store) -> None:
    batch = await create(client, [row(n, model="m") for n in range(30)])
    seen = await told(http, queued=30)
    assert (seen["value"], seen["running"]) == (30, 0)
    assert 86_000 < seen["deadline_in_s"] <= 86_400
    worker = Puppet(store, "w-1", "chat")
    await worker.live("m", capacity=4)
    claim = await worker.take()
    assert claim.endpoint == CHUNK_ENDPOINT
    info = {"name": "w-1", "pool": "chat", "models": ["m"], "capacity": 4, "chunks": 1, "rows": 4}
    await store.heartbeat("w-1", info=info)
    await told(http, running=4, queued=26)
    await store.accept(spec(pool="chat", model="m", lane=Lane.BULK))
    await told(http, running=4, queued=27)
    await client.batches.cancel(batch.id)
    await told(http, queued=1)


async def test_keda_finds_a_number_where_the_chart_says(http, store) -> None:
    await store.accept(spec(pool="chat", model="m", queue_timeout_ms=40_000))
    await told(http, queued=1)
    options = (
        "--set",
        "redis.url=redis://r",
        "--set",
        "api.requireKeys=false",
        "--set",
        "keda.trigger=metrics-api",
    )
    scaling = {"enabled": "true", "slots": 4, "maxWaitSeconds": 60}
    own = [
        word
        for name, value in scaling.items()
        for word in ("--set", f"pools.chat.autoscaling.{name}={value}")
    ]
    objects = rendered(*options, *own)
    (scaled,) = (one["spec"] for one in objects if one["kind"] == "ScaledObject")
    places = [one["metadata"] for one in scaled["triggers"]]
    assert {urlsplit(place["url"]).path for place in places} == {"/v1/autoscaling/chat"}
    answer = await read(http)
    numbers = {place["valueLocation"]: gjson.get(answer, place["valueLocation"]) for place in places}
    assert {type(number) for number in numbers.values()} <= {int, float}
    assert (numbers["value"], numbers["deadline_replicas"]) == (1, 0)
    assert 0 <= numbers["oldest_s"] < 40


async def test_a_batch_and_a_call_wait_for_a_worker_that_is_started_late(
    http, client, api, store, ready
) -> None:
    await DeclaredPools(store).put(DeclaredPool(pool="chat", model="simulated"))
    call = asyncio.create_task(
        client.chat.completions.create(model="simulated", messages=row(0)["body"]["messages"])
    )
    batch = await create(client, [row(n) for n in range(5)])
    assert (await told(http, value=6))["replicas_wanted"] == 1  # whose slots nobody knows yet
    await ready("late", pool="chat", files_url=api.settings.files_url)
    assert (await call).choices[0].message.content
    done = await ended(client, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 5)
    seen = await told(http, value=0, workers=1)
    assert seen["slots_per_replica"] == seen["slots"] > 0


async def test_metrics_have_the_same_numbers(http, store) -> None:
    async def at(backlog: int) -> dict[str, float] | None:
        seen = await gauges(http)
        return seen if seen.get("penstock_pool_backlog_jobs") == backlog else None

    await eventually(lambda: at(0))
    await store.client.hset(store.keys("pool", "chat"), "run", 100_000)
    for _ in range(10):
        await store.accept(spec(pool="chat", model="m", queue_timeout_ms=50_000))
    seen = await eventually(lambda: at(10))
    assert seen["penstock_pool_scales_from_zero"] == 1
    assert seen["penstock_pool_deadline_replicas"] == 3 == (await read(http))["deadline_replicas"]
    assert seen["penstock_pool_oldest_seconds"] <= (await read(http))["oldest_s"]


async def test_batches_that_are_not_counted_are_told(store) -> None:
    for ident in ("batch_1", "batch_2", "batch_3"):
        await store.client.sadd(store.keys("batches_active"), ident)
    backlogs = Backlogs(store)
    backlogs.most_batches = 2
    with capture_logs() as logged:
        for _ in range(2):
            await backlogs.read([], [], lambda _model: None)
    assert [(one["event"], one["batches"], one["counted"]) for one in logged] == [("backlog_cut", 3, 2)]
    await store.client.delete(store.keys("batches_active"))


async def test_a_pool_that_is_gone_has_no_series(http, store) -> None:
    async def there() -> bool:
        return "penstock_pool_backlog_jobs" in await gauges(http)

    async def gone() -> bool:
        return not any(name.startswith("penstock_pool_backlog") for name in await gauges(http))

    await eventually(there)
    await DeclaredPools(store).remove("chat")
    await eventually(gone)
