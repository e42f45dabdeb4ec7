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
from typing import Any, Self

import httpx
import pytest

from tests.batching import ENDED, jsonl, row
from tests.chaos.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("chaos")]

ROWS = int(os.environ.get("CHAOS_BATCH_ROWS", "1500"))
KILLS = int(os.environ.get("CHAOS_BATCH_KILLS", "4"))
SEED = os.environ.get("CHAOS_SEED", "1")
IN_FLIGHT = 24 + 64
"""Runs that one worker has at most: three quarters of 32 slots, and a group of rows that is not committed."""


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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
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
    """Batches follow each other until all kills were done: one may end between two looks at it."""
    dice = random.Random(f"{SEED}/batch")
    killed: list[str] = []
    async with Client(stack) as client:
        for number in range(kills):
            await one_batch(stack, client, dice, f"chaos-{rows}-{number}", rows, kills, killed)
            if len(killed) == kills:
                break
    assert len(killed) == kills


async def one_batch(
    stack: Stack, client: Client, dice: random.Random, name: str, rows: int, kills: int, killed: list[str]
) -> None:
    """Run a batch, kill what is due of ``kills`` while it runs, and check that nothing is lost or repeated.

    Args:
        stack: the system under test.
        client: asks it.
        dice: says when.
        name: its idempotency key.
        rows: how many it has.
        kills: how many kills there are to be, over all batches.
        killed: those that were done; gets those of this batch.
    """
    ran_before, killed_before = row_starts(stack.journal), len(killed)
    bodies = [
        row(n, temperature=0, max_tokens=dice.choice([-1, 1, 4, 8])) for n in range(rows // 2)
    ]  # each is in the file twice, side by side: the second row of a pair shares the first one's run
    data = jsonl(bodies[n // 2] | {"custom_id": f"row-{n}"} for n in range(rows))
    wrong = data.count(b'"max_tokens": -1')
    key = {"Idempotency-Key": name}
    form = {"files": {"file": ("in.jsonl", data)}, "data": {"purpose": "batch"}, "headers": key}
    file = (await client.ask("POST", "/v1/files", **form)).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = (await client.ask("POST", "/v1/batches", json=body, headers=key)).json()
    began = time.monotonic()
    while (now := await client.batch(batch["id"]))["status"] not in ENDED:
        counts = now["request_counts"]
        done = counts["completed"] + counts["failed"]
        here = len(killed) - killed_before
        due = counts["total"] and done >= counts["total"] * (here + dice.random()) / (kills + 1)
        if due and len(killed) < kills:
            victim = ["worker", "coordinator", "redis", "api"][len(killed) % 4]
            killed.append(victim)
            await asyncio.sleep(dice.random())
            await kill(stack, victim, dice)
        assert time.monotonic() - began < 120 + 15 * kills + rows / 20, (now, killed)
        await asyncio.sleep(0.1)
    assert now["status"] == "completed"
    proof = (await client.ask("GET", f"/v1/batches/{batch['id']}/verify")).json()
    assert proof["ok"], proof
    assert (proof["total"], proof["duplicates"], proof["missing"]) == (rows, 0, 0)
    assert (proof["completed"], proof["failed"]) == (rows - wrong, wrong)
    starts = row_starts(stack.journal) - ran_before
    here = len(killed) - killed_before
    again = starts - len(bodies)
    print(f"{rows} rows, {here} kills, {again} runs repeated, {time.monotonic() - began:.0f} s")
    # A worker that dies loses what it has in flight; one that Redis's absence fences, likewise.
    assert len(bodies) <= starts <= len(bodies) + here * IN_FLIGHT
