"""Workers die by SIGKILL in the midst of a job or a batch: what was reserved is settled, and nothing counts twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import openai
import pytest

from broker.jobs import JobStore
from broker.tenants import TenantStore
from jobs.failures import FailureCode
from jobs.model import Succeeded
from tests.apiserver import ApiServer
from tests.batching import create, ended, row
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.integration.test_claims import first_of
from tests.integration.test_worker import chat, submit
from tests.integration.test_worker import ended as job_ended

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

QUICK = {"lease_ttl_s": 60.0, "heartbeat_s": 0.1, "reap_interval_s": 0.1, "retry_base_s": 0.05}
"""A lease that a busy machine cannot outlast: who was killed is buried instead."""


BATCH = {name: value for name, value in QUICK.items() if name != "retry_base_s"}


@pytest.mark.parametrize("window", ["worker.after_claim", "worker.before_finish"])
async def test_a_job_whose_worker_is_killed_settles_once(
    store: JobStore, ready: Callable, window: str
) -> None:
    tenants = TenantStore(store)
    await tenants.change("default", {"tokens_per_day": 100_000, "tokens_per_minute": 100_000})
    first = await ready("w1", failpoints=f"{window}=kill", **QUICK)
    job_id = await submit(store, chat(max_tokens=3), prompt_tokens=50, max_tokens=1000)
    assert (await tenants.used("default")).tokens_today == 1050
    assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
    await store.bury(first_of(await store.workers(ended=True), "w1"))
    await ready("w2", **QUICK)
    job = await job_ended(store, job_id)
    assert isinstance(job.phase, Succeeded)
    assert job.phase.usage is not None
    assert [attempt.reason for attempt in job.history] == [FailureCode.WORKER_LOST]
    assert (await tenants.used("default")).tokens_today == job.phase.usage.total_tokens


async def test_rows_of_a_batch_whose_worker_is_killed_count_once(
    api: ApiServer, client: openai.AsyncOpenAI, work: Callable, store: JobStore
) -> None:
    tenants = TenantStore(store)
    await tenants.change("default", {"tokens_per_day": 100_000})
    first = await work("w1", failpoints="bulk.after_part=kill@2", **BATCH)
    batch = await create(client, [row(n, max_tokens=3) for n in range(40)])
    assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
    await store.bury(first_of(await store.workers(ended=True), "w1"))
    await work("w2", **BATCH)
    done = await ended(client, batch.id)
    assert (done.status, done.request_counts.completed) == ("completed", 40)
    assert (await tenants.used("default")).tokens_today == done.usage.total_tokens
