"""Three times more than fits: what accepted and refused callers see, whether memory stays flat, and whether the top holds.

First the best throughput, with as many clients as fill the slots and half the queue; then an open load (Poisson,
whatever the server does) of so many times that rate. Synchronous calls to the simulated engine on ``penstock up``,
with a bounded lane.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import uvloop
from _client import Connection, percentile
from _stack import machine, penstock_up
from _tables import table, wrap

Base = tuple[str, int]
QUICK = ("--seconds=12", "--best-seconds=6")
TABLES = ("overload",)
BODY = json.dumps(
    {"model": "simulated", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
).encode()
PATH = "/v1/chat/completions"


@dataclass
class Seen:
    """What came back: (seconds from the start, milliseconds)."""

    accepted: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    retry_after: set[int] = field(default_factory=set)
    others: dict[int, int] = field(default_factory=dict)


class Pool:
    """Keep-alive connections, as many as are needed at once."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._free: list[Connection] = []

    async def call(self, seen: Seen, start: float) -> None:
        """Make one call."""
        loop = asyncio.get_running_loop()
        link = self._free.pop() if self._free else Connection(*self._base)
        reply = await link.request("POST", PATH, BODY)
        self._free.append(link)
        point = (loop.time() - start, reply.total_s * 1000)
        if reply.status == 200:
            seen.accepted.append(point)
        elif reply.status == 429:
            seen.refused.append(point)
            seen.retry_after.add(int(reply.headers["retry-after"]))
        else:
            seen.others[reply.status] = seen.others.get(reply.status, 0) + 1


async def best(base: Base, clients: int, seconds: float) -> float:
    """Return the throughput with so many clients, in calls per second, after a warm-up of a quarter of the time."""
    loop, pool, seen = asyncio.get_running_loop(), Pool(base), Seen()
    start = loop.time()

    async def client() -> None:
        while loop.time() < start + seconds:
            await pool.call(seen, start)

    await asyncio.gather(*(client() for _ in range(clients)))
    counted = [at for at, _ in seen.accepted if seconds / 4 <= at < seconds]
    return len(counted) / (seconds * 0.75)


async def flood(base: Base, rate: float, seconds: float) -> Seen:
    """Call at ``rate`` per second, whatever comes back."""
    loop, pool, seen, rng = asyncio.get_running_loop(), Pool(base), Seen(), random.Random(3)
    start = loop.time()
    calls: set[asyncio.Task[None]] = set()
    due = start
    while due < start + seconds:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - loop.time()))
        task = loop.create_task(pool.call(seen, start))
        calls.add(task)
        task.add_done_callback(calls.discard)
    await asyncio.gather(*calls)
    return seen


async def watch_memory(rows: list[dict[str, float]]) -> None:
    """Note the resident memory of each process of the stack, in MB, every few seconds."""
    me = psutil.Process(os.getppid())
    loop = asyncio.get_running_loop()
    start = loop.time()
    while True:
        row: dict[str, float] = {"at_s": round(loop.time() - start)}
        for child in me.children(recursive=True):
            name = _kind(child)
            if name:
                row[name] = round(child.memory_info().rss / 1e6, 1)
        rows.append(row)
        await asyncio.sleep(5)


def _kind(process: psutil.Process) -> str | None:
    words = process.cmdline()
    if any("valkey-server" in word for word in words):
        return "valkey"
    if any("celeryd" in word for word in words) or "worker" in words:
        return "worker"
    return "api" if "api" in words else None


def per_third(points: list[tuple[float, float]], seconds: float) -> list[dict[str, float]]:
    """Summarise each third of the time, so that a drift is seen."""
    found = []
    for n in range(3):
        part = [ms for at, ms in points if n * seconds / 3 <= at < (n + 1) * seconds / 3]
        if part:
            found.append({"p50": round(percentile(part, 0.5), 1), "p99": round(percentile(part, 0.99), 1)})
    return found


async def load(base: Base, args: argparse.Namespace) -> dict[str, Any]:
    """Measure, as the load's own process."""
    top = await best(base, args.slots + args.queue // 2, args.best_seconds)
    memory: list[dict[str, float]] = []
    watcher = asyncio.create_task(watch_memory(memory))
    seen = await flood(base, args.times * top, args.seconds)
    watcher.cancel()
    inside = [at for at, _ in seen.accepted if args.seconds * 0.1 <= at < args.seconds]
    rate = len(inside) / (args.seconds * 0.9)
    refused = [ms for _, ms in seen.refused]
    third = len(memory) // 3 or 1
    grown = {
        name: round(
            sum(r[name] for r in memory[-third:]) / sum(r[name] for r in memory[third : 2 * third] or memory),
            3,
        )
        for name in memory[-1]
        if name != "at_s"
    }
    return {
        "best_per_s": round(top, 1),
        "offered_per_s": round(args.times * top, 1),
        "served_per_s": round(rate, 1),
        "kept": round(rate / top, 3),
        "accepted": len(seen.accepted),
        "refused": len(refused),
        "others": seen.others,
        "retry_after": sorted(seen.retry_after),
        "accepted_ms": per_third(seen.accepted, args.seconds),
        "refused_ms": {"p50": round(percentile(refused, 0.5), 1), "p99": round(percentile(refused, 0.99), 1)},
        "memory_mb": [memory[0], memory[len(memory) // 2], memory[-1]],
        "memory_last_third_to_second": grown,
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    given = report["settings"]
    said = (
        f"Simulated engine, {given['slots']} slots, at most {given['queue']} waiting, {given['seconds']:g} s of"
        f" {report['offered_per_s']} calls/s: {given['times']:g} times the best rate of {report['best_per_s']} calls/s."
        f" {report['accepted']:,} calls were served, {report['refused']:,} answered 429 with Retry-After"
        f" {report['retry_after'][0]} to {report['retry_after'][-1]}; otherwise answered: {report['others'] or 'none'}."
    )
    thirds = " · ".join(f"{row['p50']} / {row['p99']}" for row in report["accepted_ms"])
    rows = [
        ["served, of the best rate", report["kept"], ">= 0.95"],
        ["served calls, ms p50 / p99, by thirds of the time", thirds, "bounded"],
        ["429, ms p50 / p99", f"{report['refused_ms']['p50']} / {report['refused_ms']['p99']}", "< 50"],
    ]
    rows += [
        [f"memory of {name}, last third to the one before", ratio, "1"]
        for name, ratio in report["memory_last_third_to_second"].items()
    ]
    return {"overload": f"{wrap(said)}\n\n{table(['', 'measured', 'bar'], rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="of overload")
    parser.add_argument("--best-seconds", type=float, default=20.0, help="of the best rate")
    parser.add_argument("--times", type=float, default=3.0, help="of the best rate that is offered")
    parser.add_argument("--slots", type=int, default=16, help="of the worker")
    parser.add_argument("--queue", type=int, default=32, help="jobs that may wait")
    parser.add_argument("--base", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.base:  # the load: a process of its own, so that its memory and pauses are not the server's
        host, port = args.base.split(":")
        print(json.dumps(uvloop.run(load((host, int(port)), args))))
        return
    env = {
        "PENSTOCK_SIMULATED_TTFT_S": "0.02",
        "PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.005",
        "PENSTOCK_QUEUE_MAX": str(args.queue),
        "PENSTOCK_RETENTION_S": "30",
    }
    with penstock_up("--engine=simulated", f"--concurrency={args.slots}", **env) as base:
        argv = [sys.executable, str(Path(__file__)), *sys.argv[1:], f"--base={base[0]}:{base[1]}"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=True)
    facts = {"benchmark": "overload", "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine()}
    given = {k: v for k, v in vars(args).items() if k != "base"}
    print(json.dumps(facts | {"settings": given} | json.loads(done.stdout), indent=2))


if __name__ == "__main__":
    main()
