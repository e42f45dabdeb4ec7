"""Requests that share a prefix, with two real workers: they stay with the one that has it, and never wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.processes import WorkerProcess
from tests.support import eventually

pytestmark = pytest.mark.asyncio

LEFT_MS = 25
"""For so long a job is left to the worker that has its prefix (``broker/lua/claim.lua``)."""

SYSTEM = {"role": "system", "content": "You are the keeper of the gate. " * 10}
HELLO = {"role": "user", "content": "hello"}


def request(**body: Any) -> dict[str, Any]:
    return {"model": "simulated", "messages": [HELLO], "max_tokens": 1, **body}


KINDS: dict[str, dict[str, Any]] = {
    "affinity_key": {"input": request(), "affinity_key": "chat-1"},
    "prompt_cache_key": {"input": request(prompt_cache_key="chat-2")},
    "a long system message": {"input": request(messages=[SYSTEM, HELLO])},
    "a long prompt": {
        "endpoint": "/v1/completions",
        "input": {"model": "simulated", "prompt": SYSTEM["content"] + "?", "max_tokens": 1},
    },
}


@pytest_asyncio.fixture
async def http(broker_settings: BrokerSettings, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an api with two workers, each of which takes one job at once."""
    workers = [
        WorkerProcess(
            broker_settings,
            tmp_path / name,
            name,
            concurrency=1,
            bulk_reserve=0,
            simulated_inter_token_s=0.05,
            lease_ttl_s=60,
        )
        for name in ("w1", "w2")
    ]
    try:
        for worker in workers:
            await eventually(worker.is_ready, 60)
        with ApiServer(broker_settings) as api:
            async with api.client() as client:
                yield client
    finally:
        for worker in workers:
            worker.close()


async def ran_on(http: httpx.AsyncClient, fields: dict[str, Any]) -> tuple[str, float]:
    """Run a job to its end; return its worker, and how long it waited in the queue."""
    job = (await http.post("/v1/jobs?wait=15", json=fields)).json()
    assert job["state"] == "succeeded", job
    return job["worker"], job["timings"]["queue_ms"]


async def ran_again(http: httpx.AsyncClient, fields: dict[str, Any], home: str) -> tuple[str, float]:
    """As :func:`ran_on`, with a prefix that a worker has: no other takes the job before its time there is over."""
    worker, waited_ms = await ran_on(http, fields)
    assert worker == home or waited_ms >= LEFT_MS, fields
    return worker, waited_ms


async def occupy(http: httpx.AsyncClient, fields: dict[str, Any]) -> tuple[str, str]:
    """Start a long job, and return its id and its worker."""
    long = fields | {"input": fields["input"] | {"max_tokens": 2000}}
    job_id = (await http.post("/v1/jobs", json=long)).json()["id"]

    async def worker() -> str | None:
        return (await http.get(f"/v1/jobs/{job_id}")).json()["worker"]

    return job_id, await eventually(worker)


async def free(http: httpx.AsyncClient, job_id: str) -> None:
    await http.post(f"/v1/jobs/{job_id}/cancel")
    assert (await http.get(f"/v1/jobs/{job_id}?wait=15")).json()["state"] == "cancelled"


async def test_jobs_go_where_their_prefix_is_and_never_wait_for_it(http: httpx.AsyncClient) -> None:
    before: dict[str, Any] = {"input": request()}
    for fields in KINDS.values():
        # The worker of the kind before is taken, so that this one's first job goes to the other.
        block, busy = await occupy(http, before)
        home, _ = await ran_on(http, fields)
        assert home != busy
        await free(http, block)
        for _ in range(3):
            home, _ = await ran_again(http, fields, home)
        before = fields
    block, busy = await occupy(http, before)
    assert (await ran_on(http, before))[0] != busy  # there is no room: whoever is free takes it
    await free(http, block)


async def test_jobs_one_after_the_other_stay_with_their_worker(http: httpx.AsyncClient) -> None:
    """After each its worker asks in vain. It must hear of the next one at once all the same."""
    home, _ = await ran_on(http, KINDS["affinity_key"])
    waits_ms = []
    for _ in range(80):
        home, waited_ms = await ran_again(http, KINDS["affinity_key"], home)
        waits_ms.append(waited_ms)
    # If it did not hear of them, it would find one in forty by chance, as it asks once a second.
    assert sum(waited_ms < LEFT_MS for waited_ms in waits_ms) >= 10, waits_ms


async def test_many_at_once_use_both_workers(http: httpx.AsyncClient) -> None:
    fields = {"input": request(max_tokens=6), "affinity_key": "shared"}
    ran = await asyncio.gather(*(ran_on(http, fields) for _ in range(12)))
    assert len({worker for worker, _ in ran}) == 2
