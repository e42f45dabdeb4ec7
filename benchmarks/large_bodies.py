"""Requests of megabytes: in the storage of files, with a reference in Redis, against all of it in Redis.

One stack per side, both up at once, measured in turn, round by round, by the same client; a ratio is the median of its
rounds. Then jobs wait in a paused pool, and Valkey says how much memory they take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import uvloop
from _client import Connection, drive, percentile
from _stack import cpu_s, machine, penstock_up, processes_of
from _tables import table, wrap

Base = tuple[str, int]
QUICK = ("--calls=8", "--rounds=1", "--waiting=4", "--megabytes=2")
TABLES = ("large-bodies",)
SIDES = {"redis": {"PENSTOCK_INLINE_BYTES": str(1024**3)}, "storage": {}}
_GAUGE = "penstock_redis_memory_used_bytes "


def body(megabytes: int) -> dict[str, Any]:
    """Return a chat request of about this size. The simulated engine does not read the member that makes it large."""
    messages = [{"role": "user", "content": "Hello there"}]
    return {
        "model": "simulated",
        "messages": messages,
        "max_tokens": 16,
        "padding": "A" * (megabytes * 1_000_000),
    }


async def memory_of(base: Base) -> float:
    """Return the bytes of memory that Valkey's data takes, by the api's metric, which is some seconds old at most."""
    await asyncio.sleep(6)
    connection = Connection(*base)
    text = (await connection.request("GET", "/metrics")).body.decode()
    connection.close()
    return next(float(line.removeprefix(_GAUGE)) for line in text.splitlines() if line.startswith(_GAUGE))


async def waiting_bytes(base: Base, request: bytes, jobs: int) -> float:
    """Return Valkey's memory for each of some jobs that wait."""
    connection = Connection(*base)
    await connection.request("POST", "/v1/queues/default/pause")
    before = await memory_of(base)
    await drive(base, "/v1/jobs", [b'{"input":%b}' % request] * jobs, 2)
    used = (await memory_of(base) - before) / jobs
    await connection.request("POST", "/v1/queues/default/resume")
    connection.close()
    return used


async def measure(bases: dict[str, Base], args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Measure both sides in every round, and then the memory."""
    request = json.dumps(body(args.megabytes)).encode()
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in bases}
    processes = {side: processes_of(base) for side, base in bases.items()}
    for number in range(-1, args.rounds):  # the first warms up
        for side in bases if number % 2 else reversed(bases):
            before_s, began = cpu_s(processes[side]), time.perf_counter()
            load = await drive(bases[side], "/v1/chat/completions", [request] * args.calls, args.concurrency)
            wall_s = time.perf_counter() - began
            if number >= 0:
                totals = [reply.total_s * 1000 for reply in load.replies]
                cpu_ms = (cpu_s(processes[side]) - before_s) / args.calls * 1000
                found = {"per_s": args.calls / wall_s, "p50_ms": percentile(totals, 0.5), "cpu_ms": cpu_ms}
                seen[side].append(found)
        print(f"large_bodies: round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    for side, base in bases.items():
        used = await waiting_bytes(base, request, args.waiting)
        for row in seen[side]:
            row["memory_bytes"] = used
    return seen


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    names = {"redis": "in Redis", "storage": "in the storage"}
    rows = [
        [
            names[side],
            f"{row['per_s']:.1f}",
            f"{row['p50_ms']:.0f} ms",
            f"{row['cpu_ms']:.0f} ms",
            f"{row['memory_bytes'] / 1000:,.0f} kB",
        ]
        for side, row in report["rows"].items()
    ]
    said = (
        f"Calls with a body of {report['megabytes']} MB, {report['calls']} per side and round, {report['rounds']} rounds,"
        f" {report['concurrency']} clients on the same cores, simulated engine, medians. Calls per second in the storage"
        f" against Redis: {report['ratio']:.2f}. Memory is Valkey's, for each of {report['waiting']} waiting jobs."
    )
    header = ["request", "calls/s", "p50", "CPU per call", "Valkey's memory"]
    return {"large-bodies": f"{wrap(said)}\n\n{table(header, rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=24, help="per side and round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--concurrency", type=int, default=2, help="clients at once (default %(default)s)")
    parser.add_argument("--waiting", type=int, default=10, help="jobs that wait (default %(default)s)")
    parser.add_argument("--megabytes", type=int, default=9, help="of a body (default %(default)s)")
    args = parser.parse_args()
    with ExitStack() as up:
        bases = {
            side: up.enter_context(penstock_up("--engine=simulated", **env)) for side, env in SIDES.items()
        }
        seen = uvloop.run(measure(bases, args))
    pairs = zip(seen["storage"], seen["redis"], strict=True)
    report = {
        "benchmark": "large_bodies",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        **vars(args),
        "ratio": round(statistics.median(one["per_s"] / other["per_s"] for one, other in pairs), 3),
        "rows": {
            side: {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
            for side, rows in seen.items()
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
