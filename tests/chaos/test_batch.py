"""A batch whose workers, coordinators, apis and Redis are killed, one after the other, at random moments.

``CHAOS_BATCH_ROWS`` and ``CHAOS_BATCH_KILLS`` make the long one longer; ``CHAOS_SEED`` gives other moments.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.batching import ENDED, jsonl, row
from tests.chaos.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("chaos")]

ROWS = int(os.environ.get("CHAOS_BATCH_ROWS", "1500"))
KILLS = int(os.environ.get("CHAOS_BATCH_KILLS", "4"))
SEED = os.environ.get("CHAOS_SEED", "1")
IN_FLIGHT = 24 + 64
"""Rows that one worker has at most: three quarters of 32 slots, and a group that is not committed."""


class Client:
    """Asks whichever api answers, for as long as it takes."""

    def __init__(self, stack: Stack) -> None:
        self._urls = stack.urls
        self._http = httpx.AsyncClient(timeout=60.0)

    async def ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        give_up = time.monotonic() + 120
        while True:
            for url in self._urls:
                try:
                    answer = await self._http.request(method, url + path, **sent)
                except httpx.HTTPError:
                    continue
                # A dead api's port may have become a worker's, which answers everything with its metrics.
                if answer.status_code < 500 and "json" in answer.headers["content-type"]:
                    return answer
            assert time.monotonic() < give_up, f"no api answers {path}"
            await asyncio.sleep(0.2)

    async def batch(self, ident: str) -> dict[str, Any]:
        return dict((await self.ask("GET", f"/v1/batches/{ident}")).json())

    async def aclose(self) -> None:
        await self._http.aclose()


async def kill(stack: Stack, victim: str, dice: random.Random) -> None:
    """SIGKILL one process; the supervisor starts it again."""
    if victim == "redis":
        with stack.redis_away():
            stack.redis.signal(signal.SIGKILL)
            await asyncio.to_thread(stack.redis.end)
            await stack.start_redis()
        return
    child = dice.choice(
        {"worker": stack.workers, "coordinator": stack.coordinators, "api": stack.apis}[victim]
    )
    if child.alive:
        child.signal(signal.SIGKILL)


def row_starts(journal: Path) -> int:
    """How many runs a journal tells of; a run of another test is one too."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return sum(json.loads(line)["event"] == "start" for line in lines)


@pytest.mark.parametrize(("rows", "kills"), [(400, 4), pytest.param(ROWS, KILLS, marks=pytest.mark.full)])
async def test_kills_at_random_lose_and_repeat_nothing_that_was_committed(stack, rows, kills) -> None:
    dice = random.Random(f"{SEED}/batch")
    ran_before = row_starts(stack.journal)
    client = Client(stack)
    data = jsonl(row(n, max_tokens=dice.choice([-1, 1, 4, 8])) for n in range(rows))
    wrong = data.count(b'"max_tokens": -1')
    key = {"Idempotency-Key": f"chaos-{rows}"}
    form = {"files": {"file": ("in.jsonl", data)}, "data": {"purpose": "batch"}, "headers": key}
    file = (await client.ask("POST", "/v1/files", **form)).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await client.ask("POST", "/v1/batches", json=body, headers=key)).json()
    began = time.monotonic()
    killed: list[str] = []
    while (now := await client.batch(batch["id"]))["status"] not in ENDED:
        counts = now["request_counts"]
        done = counts["completed"] + counts["failed"]
        due = counts["total"] and done >= counts["total"] * (len(killed) + dice.random()) / (kills + 1)
        if due and len(killed) < kills:
            victim = ["worker", "coordinator", "redis", "api"][len(killed) % 4]
            killed.append(victim)
            await asyncio.sleep(dice.random())
            await kill(stack, victim, dice)
        assert time.monotonic() - began < 120 + 15 * kills + rows / 20, (now, killed)
        await asyncio.sleep(0.1)
    assert now["status"] == "completed"
    assert len(killed) == kills
    proof = (await client.ask("GET", f"/v1/batches/{batch['id']}/verify")).json()
    assert proof["ok"], proof
    assert (proof["total"], proof["duplicates"], proof["missing"]) == (rows, 0, 0)
    assert (proof["completed"], proof["failed"]) == (rows - wrong, wrong)
    starts = row_starts(stack.journal) - ran_before
    took_s = time.monotonic() - began
    print(f"{rows} rows, {kills} kills, {starts - rows} rows run again, {took_s:.0f} s")
    # A worker that dies loses what it has in flight; one that Redis's absence fences, likewise.
    assert rows <= starts <= rows + kills * IN_FLIGHT
    await client.aclose()
