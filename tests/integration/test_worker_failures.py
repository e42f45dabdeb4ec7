"""Failing requests, dying engines, time limits and drains, with real worker processes."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest

from broker.jobs import JobStore
from jobs.failures import FailureCode
from jobs.model import Failed, Succeeded
from jobs.states import JobState
from tests.integration.test_worker import (
    at_work,
    begun,
    chat,
    ended,
    read,
    ready,
    running,
    start_worker,
    submit,
)
from tests.pace import Pace
from tests.support import eventually

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

QUICK = {"retry_base_s": 0.2, "reap_interval_s": 0.1}


async def partial(store: JobStore, job_id: str) -> dict[str, Any]:
    stored = await store.result(job_id)
    assert stored.partial is not None
    return json.loads(stored.partial)


async def test_an_engine_error_is_tried_again(store: JobStore, ready) -> None:
    await ready(**QUICK)
    job = await ended(store, await submit(store, chat(simulate="error_once")))
    assert isinstance(job.phase, Succeeded)
    assert [a.reason for a in job.history] == [FailureCode.ENGINE_ERROR]


async def test_an_engine_error_is_the_jobs_after_the_last_attempt(store: JobStore, ready) -> None:
    await ready(**QUICK)
    job = await ended(store, await submit(store, chat(simulate="error"), max_attempts=2, stream=True))
    assert isinstance(job.phase, Failed)
    assert (job.phase.error.code, job.phase.error.message) == (FailureCode.ENGINE_ERROR, "a simulated error")
    assert (job.attempt, len(job.history)) == (2, 1)
    assert json.loads((await store.result(job.id)).body)["error"]["message"] == "a simulated error"


async def test_a_poisonous_job_is_failed_and_takes_nobody_with_it(store: JobStore, ready) -> None:
    first = await ready("w1", simulated_inter_token_s=0.02, **QUICK)
    innocent = [await submit(store, chat(f"{n}", max_tokens=200)) for n in range(6)]
    for job_id in innocent:
        await running(store, job_id)
    poison = await submit(store, chat(simulate="die"), max_attempts=9)
    assert await asyncio.to_thread(first.wait) == 1
    second = await ready("w2", **QUICK)
    assert await asyncio.to_thread(second.wait) == 1
    assert (await ended(store, poison)).phase.error.code is FailureCode.POISONED
    await ready("w3", **QUICK)
    for job_id in innocent:
        job = await ended(store, job_id)
        assert isinstance(job.phase, Succeeded), job


@pytest.mark.parametrize("stream", [False, True])
async def test_a_time_limit_ends_a_run_and_keeps_what_there_is(store: JobStore, ready, stream: bool) -> None:
    await ready(simulated_inter_token_s=0.02, **QUICK)
    pace = Pace()
    job = await ended(store, await submit(store, chat(max_tokens=2000), timeout_ms=1500, stream=stream))
    assert pace.allows(4), pace
    assert isinstance(job.phase, Failed)
    assert (job.phase.error.code, job.phase.status, job.attempt) == (FailureCode.TIMEOUT, 504, 1)
    response = await partial(store, job.id)
    text = response["choices"][0]["message"]["content"]
    assert job.phase.usage.completion_tokens == len(text.split()) == response["usage"]["completion_tokens"]
    assert 5 < len(text.split()) < 2000
    if stream:
        said = "".join(p[1:] for _, p in await store.log(job.id, "0-0") if p[0] == "t")
        assert said == text


async def test_a_cancelled_job_keeps_what_there_is(store: JobStore, ready) -> None:
    await ready(simulated_inter_token_s=0.02)
    job_id = await submit(store, chat(max_tokens=2000))
    await running(store, job_id)

    async def on_the_engine() -> bool:  # a job runs from its claim on, which is a moment before
        return any(worker["engine_running"] for worker in await store.workers())

    await eventually(on_the_engine)
    pace = Pace()
    await store.cancel(job_id)
    job = await ended(store, job_id)
    assert pace.allows(1), pace
    assert job.state is JobState.CANCELLED
    assert (await partial(store, job_id))["choices"][0]["finish_reason"] == "abort"


async def test_a_worker_drains_when_it_is_told(store: JobStore, ready) -> None:
    worker = await ready(simulated_inter_token_s=0.05)
    long = await submit(store, chat(max_tokens=2000))
    short = await submit(store, chat(max_tokens=10))
    for job_id in (long, short):
        await begun(store, job_id)
    await at_work(store, long, short)
    (live,) = await store.workers()
    assert live["state"] == "ready"

    async def says_so() -> bool:
        return [w["state"] for w in await store.workers()] == ["draining"]

    pace = Pace()
    assert await store.drain(live["incarnation"], 2.0)
    await eventually(says_so)
    late = await submit(store, chat(max_tokens=1))
    assert await asyncio.to_thread(worker.wait) == 0
    assert pace.allows(2.0 + 2.0), pace
    assert (await read(store, short)).state is JobState.SUCCEEDED
    for job_id in (long, late):
        assert (await read(store, job_id)).state is JobState.QUEUED


async def test_a_worker_that_loses_its_lease_before_it_consumes_ends(store: JobStore, start_worker) -> None:
    """It must not take messages that it may not run, for ever."""
    lease = {"lease_ttl_s": 1.0, "heartbeat_s": 0.2, "reap_interval_s": 0.1}
    worker = start_worker("w1", failpoints="worker.before_consume=stop", **lease)
    await eventually(lambda: "failpoint worker.before_consume" in worker.log.read_text())

    async def buried() -> bool:
        await store.reap()
        return await store.client.zcard(store.keys("leases")) == 0

    await eventually(buried)
    worker.signal(signal.SIGCONT)
    assert await asyncio.to_thread(worker.wait) == 1
    assert "the lease was lost" in worker.log.read_text()


async def test_a_worker_that_is_drained_before_it_consumes_ends_well(store: JobStore, start_worker) -> None:
    worker = start_worker("w1", failpoints="worker.before_consume=sleep:1.5")
    await eventually(lambda: "failpoint worker.before_consume" in worker.log.read_text())
    (live,) = await store.workers()
    assert await store.drain(live["incarnation"], 1.0)
    assert await asyncio.to_thread(worker.wait) == 0
