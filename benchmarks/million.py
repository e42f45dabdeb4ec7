"""A queue of a million jobs: what accepting, claiming, looking and cancelling cost as it grows, and its bytes.

Straight at the job store, without HTTP: one lane, a tenant with all of the jobs and nine with a few, on a Valkey of
its own with a disk flush per batch of writes. Each operation is timed one at a time, at several depths.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from _client import percentile
from _stack import machine
from _tables import table, wrap

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.ids import make_job_id
from jobs.lanes import Lane
from jobs.model import JobSpec
from penstock.server.valkey import EmbeddedServer

QUICK = ("--jobs=20000", "--samples=50")
TABLES = ("million",)
WORKER = "bench"
AT_ONCE = 512
BODY = json.dumps(
    {"model": "m", "messages": [{"role": "user", "content": "x" * 200}], "max_tokens": 64}
).encode()


def spec(tenant: str) -> JobSpec:
    """Return a submission."""
    ident = make_job_id(time.time_ns() // 1_000_000, os.urandom(10))
    return JobSpec(ident, "/v1/chat/completions", "m", BODY, tenant=tenant, lane=Lane.NORMAL)


async def fill(store: JobStore, count: int) -> list[str]:
    """Queue jobs, many at once; return some of their ids."""
    kept: list[str] = []
    left = count

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            accepted = await store.accept(spec("bulk"))
            if left % max(1, count // 1000) == 0:
                kept.append(accepted.id)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return kept


async def timed(samples: int, one: Callable[[int], Awaitable[Any]]) -> dict[str, float]:
    """Do something so many times; milliseconds."""
    took = []
    for n in range(samples):
        start = time.perf_counter()
        await one(n)
        took.append((time.perf_counter() - start) * 1000)
    return {"p50": round(percentile(took, 0.5), 2), "p99": round(percentile(took, 0.99), 2)}


async def look(store: JobStore, ids: list[str], samples: int) -> dict[str, Any]:
    """Time every operation at the present depth."""

    async def claim(_: int) -> None:
        if not await store.claim(WORKER, room=1):
            raise RuntimeError("there was nothing to claim")

    doomed = [(await store.accept(spec("bulk"))).id for _ in range(samples)]
    return {
        "accept_ms": await timed(samples, lambda n: store.accept(spec(f"t{n % 9}"))),
        "position_ms": await timed(samples, lambda n: store.get(ids[n % len(ids)])),
        "cancel_ms": await timed(samples, lambda n: store.cancel(doomed[n])),
        "claim_ms": await timed(samples, claim),
        "reap_ms": await timed(5, lambda _: store.reap()),
    }


async def measure(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """Fill the queue step by step."""
    settings = BrokerSettings(redis_url=url, queue_max=10 * args.jobs)
    store = JobStore(connect(url), settings)
    await store.heartbeat(WORKER, first=True, info={"name": WORKER, "pool": "default", "capacity": 64})
    beat = asyncio.create_task(_beat(store))
    before = (await store.client.info("memory"))["used_memory"]
    rows = []
    depth = 0
    for goal in [step for step in (1_000, 10_000, 100_000, 1_000_000) if step < args.jobs] + [args.jobs]:
        start = time.perf_counter()
        ids = await fill(store, goal - depth)
        rate = (goal - depth) / (time.perf_counter() - start)
        depth = goal
        used = (await store.client.info("memory"))["used_memory"] - before
        row = {"queued": goal, "accepted_per_s": round(rate), "bytes_per_job": round(used / goal)}
        rows.append(row | await look(store, ids, args.samples))
        print(row, file=sys.stderr, flush=True)
    beat.cancel()
    await store.aclose()
    first, last = rows[0], rows[-1]
    names = ("accept_ms", "claim_ms", "position_ms", "cancel_ms")
    return {
        "rows": rows,
        "ratios": {name: round(last[name]["p50"] / first[name]["p50"], 2) for name in names},
    }


async def _beat(store: JobStore) -> None:
    while True:
        await asyncio.sleep(3)
        await store.heartbeat(WORKER, info={"name": WORKER, "pool": "default", "capacity": 64})


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    names = ("accept_ms", "claim_ms", "position_ms", "cancel_ms", "reap_ms")
    rows = [
        [
            f"{row['queued']:,}",
            f"{row['accepted_per_s']:,}",
            *(f"{row[name]['p50']} / {row[name]['p99']}" for name in names),
            f"{row['bytes_per_job']:,}",
        ]
        for row in report["rows"]
    ]
    header = [
        "queued",
        "accepted/s, 512 at once",
        "accept, ms p50 / p99",
        "claim",
        "position",
        "cancel",
        "reaper's round",
    ]
    ratios = ", ".join(f"{name.removesuffix('_ms')} {ratio}" for name, ratio in report["ratios"].items())
    said = (
        f"Requests of {len(BODY)} bytes, ten tenants, operations one at a time with a disk flush each where they write."
        f" From the first row to the last the medians grew by: {ratios}."
    )
    return {"million": f"{table([*header, 'bytes per job'], rows)}\n\n{wrap(said)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1_000_000, help="depth of the queue in the end")
    parser.add_argument("--samples", type=int, default=200, help="of each operation and depth")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as folder, EmbeddedServer(Path(folder)) as server:
        report = uvloop.run(measure(server.url, args))
    facts = {"benchmark": "million", "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    print(json.dumps(facts | report, indent=2))


if __name__ == "__main__":
    main()
