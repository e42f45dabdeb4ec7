"""Our own code fails in the midst of an attempt: the job goes on, and the worker serves."""

from __future__ import annotations

import asyncio

import pytest

from broker.jobs import JobStore
from jobs.failures import FailureCode
from jobs.model import Failed, Succeeded
from tests.integration.test_worker import chat, ended, ready, start_worker, submit

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

QUICK = {"retry_base_s": 0.1, "reap_interval_s": 0.1}


@pytest.mark.parametrize("window", ["worker.after_claim", "worker.before_finish"])
async def test_a_job_whose_attempt_crashes_is_tried_again(store: JobStore, ready, window: str) -> None:
    worker = await ready(failpoints=f"{window}=raise", **QUICK)
    job = await ended(store, await submit(store, chat(max_tokens=2)))
    assert isinstance(job.phase, Succeeded)
    assert [a.reason for a in job.history] == [FailureCode.INTERNAL]
    assert "attempt_crashed" in worker.log.read_text()
    assert worker.process.poll() is None


async def test_a_job_whose_attempts_all_crash_fails_and_says_why(store: JobStore, ready) -> None:
    worker = await ready(failpoints="worker.after_claim=raise@1+", **QUICK)
    job = await ended(store, await submit(store, chat(max_tokens=2), max_attempts=3))
    assert isinstance(job.phase, Failed)
    assert (job.phase.error.code, job.attempt) == (FailureCode.INTERNAL, 3)
    assert "FailpointReachedError" in job.phase.error.message
    assert worker.process.poll() is None


async def test_a_run_that_the_engines_own_code_cancels_is_a_failed_attempt(store: JobStore, ready) -> None:
    worker = await ready(**QUICK)
    job = await ended(store, await submit(store, chat(simulate="interrupt"), max_attempts=2))
    assert isinstance(job.phase, Failed)
    assert (job.phase.error.code, job.attempt) == (FailureCode.INTERNAL, 2)
    assert worker.process.poll() is None


async def test_a_job_that_can_neither_end_nor_be_given_back_ends_its_worker(store: JobStore, ready) -> None:
    """Only the end of its lease frees the job then."""
    first = await ready("w1", failpoints="worker.after_claim=raise,worker.before_release=raise", **QUICK)
    job_id = await submit(store, chat(max_tokens=2))
    assert await asyncio.to_thread(first.wait) == 1
    await ready("w2", **QUICK)
    job = await ended(store, job_id)
    assert isinstance(job.phase, Succeeded)
    assert [a.reason for a in job.history] == [FailureCode.WORKER_LOST]


@pytest.mark.parametrize("window", ["worker.before_append", "worker.after_append"])
async def test_a_stream_loses_nothing_when_a_write_of_its_chunks_crashes(
    store: JobStore, ready, window: str
) -> None:
    worker = await ready(failpoints=f"{window}=raise@3", simulated_inter_token_s=0.02)
    job = await ended(store, await submit(store, chat(max_tokens=30), stream=True))
    assert isinstance(job.phase, Succeeded)
    assert "append_failed" in worker.log.read_text()
    texts = [payload[1:] for _, payload in await store.log(job.id, "0-0") if payload[0] == "t"]
    whole = (await store.result(job.id)).body.decode()
    assert len("".join(texts).split()) == 29  # the last is in the closing frame
    assert "".join(texts) in whole
