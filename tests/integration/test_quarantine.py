"""Suspects of an engine's death: they run apart, and hold up nobody; an engine that hangs counts as dead."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.jobs import JobStore
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import Failed, Succeeded
from jobs.states import JobState
from tests.integration.test_worker import chat, ended, read, ready, running, start_worker, submit
from tests.processes import WorkerProcess
from tests.support import eventually

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

QUICK: dict[str, Any] = {"retry_base_s": 0.2, "reap_interval_s": 0.1, "heartbeat_s": 0.2}


async def engine_dies(store: JobStore, worker: WorkerProcess, ids: list[str]) -> None:
    """Have a worker's engine die under jobs."""
    for job_id in ids:
        await running(store, job_id)
    poison = await submit(store, chat(simulate="die"))
    assert await asyncio.to_thread(worker.wait) == 1
    await store.cancel(poison)


async def test_suspects_wait_in_the_queue_and_take_no_slot(store: JobStore, ready) -> None:
    worker = await ready("w1", simulated_inter_token_s=0.02, **QUICK)
    ids = [await submit(store, chat(f"{n}", max_tokens=3000)) for n in range(5)]
    await engine_dies(store, worker, ids)
    await ready("w2", simulated_inter_token_s=0.02, concurrency=2, **QUICK)

    async def one_runs() -> bool:
        states = sorted([(await read(store, job_id)).state for job_id in ids])
        return states == [JobState.QUEUED] * 4 + [JobState.RUNNING]

    await eventually(one_runs)
    for n in range(3):
        now = await ended(store, await submit(store, chat(f"now {n}", max_tokens=3), lane=Lane.REALTIME))
        assert isinstance(now.phase, Succeeded)
    assert await one_runs()
    for job_id in ids:
        await store.cancel(job_id)
        assert (await ended(store, job_id)).state is JobState.CANCELLED


async def test_a_suspects_wait_is_no_part_of_its_time_limit(store: JobStore, ready) -> None:
    worker = await ready("w1", simulated_inter_token_s=0.1, **QUICK)
    first = await submit(store, chat(max_tokens=3000), lane=Lane.HIGH)
    second = await submit(store, chat(max_tokens=30), timeout_ms=4000)
    await engine_dies(store, worker, [first, second])
    await ready("w2", simulated_inter_token_s=0.02, **QUICK)
    job = await ended(store, second)  # after the 5 s for which the first is alone
    assert isinstance(job.phase, Succeeded), job
    assert (await read(store, first)).state is JobState.RUNNING
    await store.cancel(first)
    await ended(store, first)


async def test_an_engine_that_hangs_is_dead_and_the_request_that_hangs_it_is_convicted(
    store: JobStore, ready
) -> None:
    stall = {"engine_stall_s": 1.0, **QUICK}
    first = await ready("w1", simulated_inter_token_s=0.02, **stall)
    innocent = await submit(store, chat(max_tokens=1000))
    await running(store, innocent)
    hang = await submit(store, chat(simulate="hang"), max_attempts=9)
    assert await asyncio.to_thread(first.wait) == 1
    assert "took no step for 1 s" in first.log.read_text()
    second = await ready("w2", **stall)
    assert await asyncio.to_thread(second.wait) == 1
    job = await ended(store, hang)
    assert isinstance(job.phase, Failed)
    assert job.phase.error.code is FailureCode.POISONED
    await ready("w3", **stall)
    assert isinstance((await ended(store, innocent)).phase, Succeeded)


async def test_a_slow_request_is_no_hang(store: JobStore, ready) -> None:
    worker = await ready("w1", simulated_ttft_s=2.5, engine_stall_s=0.5, **QUICK)
    assert isinstance((await ended(store, await submit(store, chat(max_tokens=2)))).phase, Succeeded)
    assert worker.process.poll() is None
