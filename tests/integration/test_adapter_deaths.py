"""An engine that dies while jobs and rows wait for their LoRA adapter: the death does not count against them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from broker.adapters import Adapters
from broker.batch_chunks import ChunkSpec
from broker.jobs import JobStore
from jobs.batch_rows import Row
from jobs.endpoints import CHAT
from jobs.retry import RetryPolicy
from monitoring.metrics import WorkerMetrics
from monitoring.tracing import Tracer
from storage.local import LocalStorage
from tests.integration.test_worker import submit
from tests.puppet import Puppet
from tests.support import eventually
from tests.tiny_adapters import declare, tiny_adapter
from workers.adapters.pool import AdapterPool
from workers.attempts.quarantine import Quarantine
from workers.attempts.reasons import StopReason
from workers.attempts.runner import Runner
from workers.batches.row import ChunkAttempt, RowRunner
from workers.engines.settings import SimulatedSettings
from workers.engines.simulated.engine import SimulatedEngine
from workers.inputs import Inputs
from workers.process.parts import Parts
from workers.settings import WorkerSettings

pytestmark = pytest.mark.asyncio

SAY = msgspec.json.encode({"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4})


class Worker:
    """A worker with one place for adapters."""

    def __init__(self, store: JobStore, engine: SimulatedEngine, folder: Path) -> None:
        storage, metrics = LocalStorage(folder / "files"), WorkerMetrics(CollectorRegistry())
        self.storage, self.puppet = storage, Puppet(store)
        self.pool = AdapterPool(
            engine,
            Adapters(store),
            metrics,
            lambda: storage,
            folder / "copies",
            worker=self.puppet.name,
            pool="default",
            most=1,
        )
        parts = Parts(WorkerSettings(), engine, store, lambda: storage, metrics, Tracer())
        self.runner: Runner = parts.runner(
            self.puppet.name,
            parts.gate(),
            device_share=1.0,
            quarantine=Quarantine(1.0),
            adapters=self.pool,
            weights=lambda: 0,
            die=lambda _: None,
        )
        inputs = Inputs(
            store, lambda: storage, image_max_bytes=1, request_images_max_bytes=1, request_images_max=1
        )
        self.rows = RowRunner(
            engine,
            inputs,
            RetryPolicy(1.0, 1.0),
            1 << 20,
            Tracer(),
            adapter_for=self.pool.held,
            share_prefixes=True,
        )

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Use the place for another adapter, so that requests for ``a`` wait."""
        async with self.pool.held("b"):
            yield

    async def waits(self) -> bool:
        """Return whether a request waits for a place."""
        return bool(self.pool._places._wanted)


@pytest_asyncio.fixture
async def worker(store: JobStore, tmp_path: Path) -> AsyncIterator[Worker]:
    engine = SimulatedEngine(SimulatedSettings(adapters=1, adapter_max_rank=8, ttft_s=0.0))
    await engine.start()
    one = Worker(store, engine, tmp_path)
    for seed, name in enumerate("ab", 1):
        await declare(Adapters(store), one.storage, tiny_adapter(tmp_path / name, seed), name)
    await one.puppet.live("a")
    yield one
    await engine.stop()
    one.pool.close(died=False)


async def test_a_job_that_waits_for_its_adapter_is_no_suspect(store: JobStore, worker: Worker) -> None:
    await submit(store, SAY, model="a")
    async with worker.full():
        running = asyncio.create_task(worker.runner.run(await worker.puppet.take(), 0))
        await eventually(worker.waits)
        worker.runner.stop_all(StopReason.ENGINE_DEAD)
        assert (await running).reason == StopReason.RELEASED
    assert (await worker.puppet.take()).kills == 0


async def test_a_row_that_waits_for_its_adapter_is_not_on_the_engine(store: JobStore, worker: Worker) -> None:
    await submit(store, SAY, model="a")
    reached: list[bool] = []
    chunk = ChunkAttempt(
        await worker.puppet.take(),
        ChunkSpec("b", 0, 1, "k", 0, 1, 1, CHAT),
        1,
        lambda: reached.append(True),
    )
    async with worker.full():
        running = asyncio.create_task(worker.rows.run(chunk, Row("one", SAY), "one"))
        await eventually(worker.waits)
        assert (chunk.on_engine, reached) == (0, [])
    end = await running
    assert end is not None
    assert (end.final.status, chunk.on_engine, reached) == (200, 0, [True])
