"""How many chunks of a batch are submitted at once, and which of its rows run then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.claims import Claim
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.batching import jsonl, row
from tests.coordinators import CoordinatorThread
from tests.processes import WorkerProcess
from tests.puppet import FACTS, MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

RUNS_ON: dict[str, Any] = {"max_tokens": 4000}


@pytest.fixture
def client(broker_settings: BrokerSettings, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a client of an api, beside a coordinator that cuts batches into chunks of so many rows."""
    files = str(tmp_path / "files")
    with ExitStack() as stack:

        @asynccontextmanager
        async def start(rows: int, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
            given = {"files_url": files, **settings}
            stack.enter_context(CoordinatorThread(broker_settings, batch_chunk_rows=rows, **given))
            api = stack.enter_context(ApiServer(broker_settings, **given))
            async with api.client() as http:
                yield http

        yield start


async def create(http: httpx.AsyncClient, rows: list[dict[str, Any]], priority: str = "bulk") -> None:
    sent = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", jsonl(rows))})
    body = {
        "input_file_id": sent.json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "priority": priority,
    }
    (await http.post("/v1/batches", json=body)).raise_for_status()


async def test_two_chunks_wait_however_many_run_until_each_slot_may_have_one(
    store: JobStore, client: Callable[..., Any]
) -> None:
    """A worker takes one when the rows of the others are all on its engine, so those that run may have few rows left."""
    puppet = Puppet(store)
    await puppet.live(capacity=4)
    async with client(5) as http:
        await create(http, [row(n, model=MODEL) for n in range(60)])
        taken: list[Claim] = []
        for waiting in (2, 2, 2, 2, 2, 1, 0):

            async def so_many(waiting: int = waiting) -> bool:
                return await puppet.waiting() == waiting

            await eventually(so_many)
            if waiting:
                taken.append(await puppet.take())
        assert len({claim.id for claim in taken}) == 6


async def test_only_workers_count_that_may_take_the_chunks(
    store: JobStore, client: Callable[..., Any]
) -> None:
    able, other = Puppet(store, "a-1", "alpha"), Puppet(store, "b-1", "beta")
    await able.live(capacity=2)
    for n in range(5):
        await Puppet(store, f"b-{n}", "beta").live(
            capacity=500, facts=FACTS | {"endpoints": ["/v1/completions"]}
        )
    async with client(5) as http:
        await create(http, [row(n, model=MODEL) for n in range(60)])
        await eventually(able.waiting)
        await able.take()
        await able.take()
        await eventually(able.waiting)
        assert await able.waiting() <= 2
        assert await other.waiting() == 0


async def test_chunks_that_wait_leave_the_tenants_own_calls_half_of_its_bound(
    store: JobStore, client: Callable[..., Any]
) -> None:
    for n in range(5):
        await Puppet(store, f"puppet-{n}").live(capacity=4)
    puppet = Puppet(store, "puppet-0")
    async with client(5, tenant_queue_max=6) as http:
        await create(http, [row(n, model=MODEL) for n in range(60)])

        async def half() -> bool:
            return await puppet.waiting() >= 3

        await eventually(half)
        call = {"endpoint": "/v1/completions", "input": {"model": MODEL, "prompt": "hi"}}
        for _ in range(3):
            (await http.post("/v1/jobs", json=call)).raise_for_status()
        refused = await http.post("/v1/jobs", json=call)
        assert refused.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("priority", ["normal", "bulk"])
async def test_every_slot_finds_rows_while_the_last_of_a_chunk_run(
    broker_settings: BrokerSettings,
    store: JobStore,
    tmp_path: Path,
    client: Callable[..., Any],
    priority: str,
) -> None:
    """Twelve of sixteen slots are a batch's. Of each chunk one row runs on and on, so twelve chunks have a row each."""
    files = str(tmp_path / "files")
    worker = WorkerProcess(
        broker_settings, tmp_path / "w.log", files_url=files, concurrency=16, simulated_inter_token_s=0.05
    )
    try:
        async with client(10) as http:
            await eventually(worker.is_ready, 40.0)
            rows = [row(n, **(RUNS_ON if n % 10 == 0 else {"max_tokens": 1})) for n in range(400)]
            await create(http, rows, priority)

            async def full() -> bool:
                (said,) = await store.workers()
                return said["rows"] == 12 and said["chunks"] >= 12

            await eventually(full, 40.0)
            call = {
                "model": "simulated",
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 1,
            }
            for _ in range(3):
                (await http.post("/v1/chat/completions", json=call, timeout=20.0)).raise_for_status()
    finally:
        worker.process.kill()
        worker.process.wait(10)
