"""Shares of tokens: a tenant of few long jobs beside one of many short ones, for a minute. A part of `fairness.py`."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from _client import Connection, drive
from _stack import penstock_up

Base = tuple[str, int]
KEYS = {"long": "key-long", "short": "key-short"}
SIZES = {"long": (200, 600), "short": (10, 30)}
"""Fewest and most output tokens of a job: each asks for another number, so that an estimate is off."""

SLOTS = 8
_INTER_TOKEN_S = 0.004
_WARM_UP_S = 3.0
_MESSAGES = [{"role": "user", "content": "Say something."}]
_PROMPT_TOKENS = len(json.dumps(_MESSAGES, separators=(",", ":"))) // 4  # as the simulated engine counts


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job on the engine: Unix milliseconds, and the tokens that it made and read."""

    tenant: str
    tokens: int
    start_ms: float
    end_ms: float

    def tokens_in(self, begin_ms: float, end_ms: float) -> float:
        """Return its tokens of a stretch of time, as if they came evenly."""
        overlap_ms = min(self.end_ms, end_ms) - max(self.start_ms, begin_ms)
        return self.tokens * max(overlap_ms, 0.0) / max(self.end_ms - self.start_ms, 1.0)


def shares(runs: Iterable[Run], begin_ms: float, end_ms: float) -> dict[str, float]:
    """Return each tenant's share of the tokens of a stretch of time."""
    tokens = dict.fromkeys(KEYS, 0.0)
    for run in runs:
        tokens[run.tenant] += run.tokens_in(begin_ms, end_ms)
    whole = sum(tokens.values())
    return {tenant: count / whole for tenant, count in tokens.items()}


def runs_of(journal: str, jobs: Mapping[str, tuple[str, int]], now_ms: float) -> list[Run]:
    """Read the simulated engine's journal.

    Args:
        jobs: each job's tenant and tokens, by its id.
        now_ms: the end of a run that has not ended.
    """
    times: dict[str, dict[str, float]] = {}
    for line in journal.splitlines():
        row = json.loads(line)
        times.setdefault(row["job"], {})[row["event"]] = row["time_ms"]
    return [Run(*jobs[ident], seen["start"], seen.get("end", now_ms)) for ident, seen in times.items()]


async def _submit(base: Base, tenant: str, tokens: float, sizes: random.Random) -> dict[str, tuple[str, int]]:
    """Queue jobs of so many tokens together; return the tenant and the tokens of each."""
    wanted = []
    left = tokens
    while left > 0:
        wanted.append(sizes.randint(*SIZES[tenant]))
        left -= wanted[-1] + _PROMPT_TOKENS
    bodies = [
        {
            "input": {"model": "simulated", "messages": _MESSAGES, "max_tokens": count},
            "metadata": {"n": str(count)},
        }
        for count in wanted
    ]
    load = await drive(base, "/v1/jobs", bodies, 16, _auth(tenant))
    made = [json.loads(reply.body) for reply in load.replies]
    return {job["id"]: (tenant, int(job["metadata"]["n"]) + _PROMPT_TOKENS) for job in made}


def _auth(tenant: str) -> str:
    return f"authorization: Bearer {KEYS[tenant]}\r\n"


async def _order(base: Base, method: str, path: str) -> None:
    link = Connection(*base)
    reply = await link.request(method, path, headers=_auth("long"))
    link.close()
    if reply.status >= 300:
        raise RuntimeError(f"{method} {path} answered {reply.status}: {reply.body[:300]!r}")


async def _measure(base: Base, journal: Path, seconds: float) -> dict[str, Any]:
    """Queue everything while the pool is paused, let it go, and look at what ran in the seconds after the start."""
    sizes = random.Random(1)
    rate = SLOTS / _INTER_TOKEN_S  # the engine makes fewer: it has pauses between jobs
    await _order(base, "POST", "/v1/queues/default/pause")
    jobs: dict[str, tuple[str, int]] = {}
    for tenant in KEYS:  # either could get nearly all of the engine, and both must have jobs until the end
        jobs |= await _submit(base, tenant, rate * (seconds + _WARM_UP_S) * 1.1, sizes)
    await _order(base, "POST", "/v1/queues/default/resume")
    await asyncio.sleep(_WARM_UP_S + seconds + 1.0)
    text = await asyncio.to_thread(journal.read_text)
    await _order(base, "DELETE", "/v1/queues/default/normal")
    first_ms = min(json.loads(line)["time_ms"] for line in text.splitlines())
    begin_ms = first_ms + _WARM_UP_S * 1000
    end_ms = begin_ms + seconds * 1000
    runs = runs_of(text, jobs, end_ms)
    for tenant in KEYS:
        if sum(run.tenant == tenant for run in runs) == sum(owner == tenant for owner, _ in jobs.values()):
            raise RuntimeError(f"the jobs of the tenant {tenant!r} were all run before the end: more, please")
    counts = {tenant: sum(run.tenant == tenant and run.end_ms > begin_ms for run in runs) for tenant in KEYS}
    return {"shares": shares(runs, begin_ms, end_ms), "jobs": counts}


def spell(turns: str, weights: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """Run one pair of weights; return the shares, and how far they are from those of the weights (0.05: 5 % off)."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        journal = Path(folder) / "journal"
        env = {
            "PENSTOCK_API_KEYS": json.dumps(KEYS),
            "PENSTOCK_TENANTS": json.dumps({name: {"weight": weight} for name, weight in weights.items()}),
            "PENSTOCK_TURNS": turns,
            "PENSTOCK_SIMULATED_INTER_TOKEN_S": str(_INTER_TOKEN_S),
            "PENSTOCK_SIMULATED_JOURNAL": str(journal),
            "PENSTOCK_TASK_EVENTS": "false",
        }
        with penstock_up("--engine=simulated", f"--concurrency={SLOTS}", **env) as base:
            found = uvloop.run(_measure(base, journal, seconds))
    expected = {tenant: weight / sum(weights.values()) for tenant, weight in weights.items()}
    off = {tenant: abs(found["shares"][tenant] / expected[tenant] - 1) for tenant in KEYS}
    return {
        "turns": turns,
        "weights": dict(weights),
        "jobs": found["jobs"],
        "expected": {tenant: round(share, 3) for tenant, share in expected.items()},
        "shares": {tenant: round(share, 3) for tenant, share in found["shares"].items()},
        "worst_deviation": round(max(off.values()), 3),
    }


def spells(seconds: float) -> list[dict[str, Any]]:
    """Run equal weights, 3 to 1 and 1 to 3 with turns in tokens, and equal weights with turns in jobs."""
    pairs = [("tokens", 1.0, 1.0), ("tokens", 3.0, 1.0), ("tokens", 1.0, 3.0), ("jobs", 1.0, 1.0)]
    return [spell(turns, {"long": long, "short": short}, seconds) for turns, long, short in pairs]
