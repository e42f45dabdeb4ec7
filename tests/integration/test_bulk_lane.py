"""Bulk work beside interactive work on one worker process."""

from __future__ import annotations

import asyncio

import pytest

from broker.jobs import JobStore
from jobs.lanes import Lane
from jobs.states import JobState
from tests.integration.test_worker import chat, ended, read, ready, start_worker, submit
from tests.support import eventually

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio


async def states(store: JobStore, ids: list[str]) -> list[JobState]:
    return [(await read(store, job_id)).state for job_id in ids]


async def test_bulk_leaves_slots_free_and_interactive_jobs_start_at_once(store: JobStore, ready) -> None:
    await ready(concurrency=8, simulated_inter_token_s=0.05)
    bulk = [await submit(store, chat(f"{n}", max_tokens=2000), lane=Lane.BULK) for n in range(20)]

    async def full() -> bool:
        return (await states(store, bulk)).count(JobState.RUNNING) == 6

    await eventually(full)
    waits = []
    for n in range(10):
        job = await ended(store, await submit(store, chat(f"hi {n}", max_tokens=2), lane=Lane.REALTIME))
        assert job.state is JobState.SUCCEEDED
        waits.append(job.timings.queue_ms)
    assert max(waits) < 20_000  # and not the 100 s of a bulk job; how little it is, the benchmark tells
    assert (await states(store, bulk)).count(JobState.RUNNING) == 6
    for job_id in bulk:
        await store.cancel(job_id)


async def test_bulk_uses_what_is_there_and_all_of_it_ends(store: JobStore, ready) -> None:
    await ready(concurrency=4, simulated_inter_token_s=0.002)
    lanes = [Lane.BULK, Lane.NORMAL, Lane.BULK, Lane.REALTIME]
    ids = [await submit(store, chat(f"{n}", max_tokens=5), lane=lanes[n % 4]) for n in range(200)]
    ends = await asyncio.gather(*(ended(store, job_id) for job_id in ids))
    assert {job.state for job in ends} == {JobState.SUCCEEDED}


async def test_a_worker_with_one_slot_takes_bulk_too(store: JobStore, ready) -> None:
    await ready(concurrency=1)
    ids = [await submit(store, chat(f"{n}"), lane=Lane.BULK) for n in range(5)]
    for job_id in ids:
        assert (await ended(store, job_id)).state is JobState.SUCCEEDED
