"""An upstream server that fails or is slow: a worker in front of it gives up, and no request is blamed for it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from broker.jobs import JobStore
from jobs.failures import FailureCode
from jobs.model import Failed, Succeeded
from tests.integration.test_worker import ended, ready, running, start_worker, submit
from tests.support import eventually
from tests.upstream import Answer, Upstream

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

QUICK = {"retry_base_s": 0.1, "reap_interval_s": 0.1, "heartbeat_s": 0.1}
CHAT = json.dumps({"model": "upstream", "messages": [{"role": "user", "content": "hi"}]}).encode()
AWAY: Answer = (503, "text/plain", b"loading")


class Slow(Upstream):
    """An upstream that holds each answer until the test lets it go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked = 0
        super().__init__(self._answer)
        self.well = self.models

    def _answer(self, _: dict[str, Any]) -> Answer:
        self.asked += 1
        self.go.wait(60)
        told = {"object": "chat.completion", "choices": []}
        return 200, "application/json", json.dumps(told).encode()


@pytest.fixture
def upstream() -> Iterator[Slow]:
    with Slow() as upstream:
        yield upstream
        upstream.go.set()


async def submit_chat(store: JobStore, **more: Any) -> str:
    return await submit(store, CHAT, model="upstream", **more)


async def lost_upstream(store: JobStore, ready: Any, upstream: Slow, name: str, job_id: str) -> None:
    """Have a worker take the job and lose its upstream."""
    upstream.models, asked = upstream.well, upstream.asked
    worker = await ready(name, engine="openai", openai_base_url=upstream.url, **QUICK)
    await running(store, job_id)
    await eventually(lambda: upstream.asked > asked)
    upstream.models = lambda: AWAY
    assert await asyncio.to_thread(worker.wait) == 1
    assert "the engine died" in worker.log.read_text()


async def test_a_job_whose_upstream_goes_away_twice_is_not_convicted(
    store: JobStore, ready, upstream: Slow
) -> None:
    job_id = await submit_chat(store)
    await lost_upstream(store, ready, upstream, "w1", job_id)
    await lost_upstream(store, ready, upstream, "w2", job_id)
    upstream.models = upstream.well
    upstream.go.set()
    await ready("w3", engine="openai", openai_base_url=upstream.url, **QUICK)
    job = await ended(store, job_id)
    assert isinstance(job.phase, Succeeded), job
    assert [a.reason for a in job.history] == [FailureCode.ENGINE_UNAVAILABLE] * 2


async def test_a_job_that_takes_its_upstream_along_ends_after_its_last_attempt(
    store: JobStore, ready, upstream: Slow
) -> None:
    job_id = await submit_chat(store, max_attempts=2)
    await lost_upstream(store, ready, upstream, "w1", job_id)
    await lost_upstream(store, ready, upstream, "w2", job_id)
    job = await ended(store, job_id)
    assert isinstance(job.phase, Failed)
    assert (job.phase.error.code, job.attempt) == (FailureCode.ENGINE_UNAVAILABLE, 2)


@pytest.mark.full
async def test_an_upstream_that_lists_its_models_slowly_costs_no_job_and_no_lease(
    store: JobStore, ready, upstream: Slow
) -> None:
    """Each list takes longer than the 10 s that the worker waits for it."""
    lease = {"lease_ttl_s": 3.0, "heartbeat_s": 0.2, "reap_interval_s": 0.2}
    worker = await ready("w1", engine="openai", openai_base_url=upstream.url, **lease)
    job_id = await submit_chat(store)
    await running(store, job_id)
    asks = 0

    def late() -> Answer:
        nonlocal asks
        asks += 1
        time.sleep(12)
        return upstream.well()

    upstream.models = late
    await eventually(lambda: asks == 3, 40)
    upstream.go.set()
    job = await ended(store, job_id)
    assert isinstance(job.phase, Succeeded)
    assert job.history == ()
    assert worker.process.poll() is None
