"""`penstock up` with a front of its own for bulk, which is killed under load: each job and row ends with its own answer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import pytest_asyncio

from jobs.endpoints import CHAT
from tests.batching import create, ended, lines, row
from tests.e2e.stacks import Stack, start_stack, stop_stack
from tests.e2e.test_cancellation import Engine
from tests.support import eventually
from workers.engines.vllm.step_cost import label

pytestmark = [pytest.mark.full, pytest.mark.asyncio, pytest.mark.xdist_group("vllm")]

PACE, JOBS, ROWS = "4,0.01,0.01", 24, 24
MODEL = label(PACE)
LONG: dict[str, Any] = {"max_tokens": 1200, "ignore_eos": True, "temperature": 0}


@pytest_asyncio.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    flags = (f"--paced={PACE}", "--no-flower")
    stack = await asyncio.to_thread(start_stack, tmp_path, *flags, PENSTOCK_BULK_FRONT="true")
    yield stack
    await asyncio.to_thread(stop_stack, stack)


def fronts(stack: Stack) -> list[psutil.Process]:
    """Return the bulk fronts of a stack's workers."""
    children = psutil.Process(stack.process.pid).children(recursive=True)
    return [one for one in children if any("bulk_front_process" in part for part in one.cmdline())]


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; whoever inherits it may not have noticed yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def chat(name: object) -> dict[str, Any]:
    body: dict[str, Any] = row(name, model=MODEL, **LONG)["body"]
    return body


async def test_a_killed_front_costs_an_attempt_and_no_job(stack: Stack) -> None:
    (front,) = fronts(stack)
    async with (
        httpx.AsyncClient(base_url=stack.url, timeout=120) as http,
        openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="none") as client,
    ):

        async def job(ident: str, **params: int) -> dict[str, Any]:
            found: dict[str, Any] = (await http.get(f"/v1/jobs/{ident}", params=params)).json()
            return found

        async def over(ident: str) -> dict[str, Any]:
            found = await job(ident)
            while found["state"] in {"queued", "running"}:
                found = await job(ident, wait=5)
            return found

        asked = [{"input": chat(n), "endpoint": CHAT, "priority": "bulk"} for n in range(JOBS)]
        idents = [(await http.post("/v1/jobs", json=one)).json()["id"] for one in asked]
        batch = await create(client, [row(n, model=MODEL, **LONG) for n in range(ROWS)])
        engine = await Engine.of(http)

        async def all_run() -> bool:
            return await engine.counts() == JOBS + ROWS

        await eventually(all_run, 60)
        os.kill(front.pid, signal.SIGKILL)
        jobs = await asyncio.wait_for(asyncio.gather(*map(over, idents)), 120)
        assert [one["state"] for one in jobs] == ["succeeded"] * JOBS
        assert [one["attempt"] for one in jobs] == [2] * JOBS
        assert {past["reason"] for one in jobs for past in one["history"]} == {"engine_unavailable"}
        done = await ended(client, batch.id, 120)
        assert (done.status, done.request_counts.completed) == ("completed", ROWS)
        rows = {one["custom_id"]: one for one in await lines(client, done.output_file_id)}
        assert len(rows) == ROWS
        # Calls pass the front that lives, and the same prompt has the same text.
        calls = await asyncio.gather(*(http.post(CHAT, json=chat(n)) for n in range(JOBS)))
        for n, call in enumerate(calls):
            text = call.json()["choices"][0]["message"]["content"]
            assert text
            assert jobs[n]["result"]["choices"][0]["message"]["content"] == text
            assert rows[f"row-{n}"]["response"]["body"]["choices"][0]["message"]["content"] == text
        log = (stack.data_dir / "logs" / "worker.log").read_text()
        assert log.count("bulk_front_lost") == 1
        assert not fronts(stack)


async def test_it_ends_with_the_worker_and_with_the_stack(stack: Stack) -> None:
    (front,) = fronts(stack)
    body = {"input": chat("one"), "endpoint": CHAT, "priority": "bulk"}
    async with httpx.AsyncClient(base_url=stack.url, timeout=120) as http:
        ident = (await http.post("/v1/jobs", json=body)).json()["id"]
        assert (await http.get(f"/v1/jobs/{ident}", params={"wait": 30})).json()["state"] == "succeeded"
    worker = front.parent()
    assert worker is not None
    worker.kill()  # nothing in the worker ends the front: the socket and the leash do
    await eventually(lambda: gone(front))
    replaced = await eventually(lambda: fronts(stack), 120)
    await asyncio.to_thread(stop_stack, stack)
    await eventually(lambda: all(map(gone, replaced)))
