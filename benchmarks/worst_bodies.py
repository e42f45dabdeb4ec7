"""What the worst request bodies do to an api: they are searched for, then 16 clients send them for a minute.

Bars: ``GET /health/live`` within 50 ms at p99 meanwhile, under 200 MB of memory more than before, and no answer of 5xx. The
lane is full, so that a body that is good is checked, sent to Redis and refused there: nothing is stored.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import psutil
import uvloop
from _bodies import Body, first_generation, varied
from _client import Connection, percentile
from _stack import machine, penstock_up
from _tables import table, wrap
from _watcher import Watcher
from idle import kind

QUICK = ("--generations=0", "--sizes", "1400000", "--sample=60", "--seconds=5")
TABLES = ("worst-bodies",)
CLIENTS = 16
PATIENCE_S = 60
KEPT = 8
"""Bodies that are kept of each measure: answer time, CPU, memory."""


@contextmanager
def full_api() -> Iterator[tuple[tuple[str, int], int]]:
    """Run the stack with a paused pool whose lanes are full; yields the api's address and process id."""
    limits = {
        "PENSTOCK_QUEUE_MAX": "1",
        "PENSTOCK_QUEUE_TIMEOUT_S": "36000",
        "PENSTOCK_REQUEST_TIMEOUT_S": "36000",
    }
    with penstock_up("--engine=simulated", **limits) as base, socket.create_connection(base) as waits:
        call = json.dumps({"model": "simulated", "messages": [{"role": "user", "content": "a"}]})
        asyncio.run(_ask(base, "/v1/queues/default/pause", "", 200))
        asyncio.run(_ask(base, "/v1/jobs", f'{{"input":{call}}}', 202))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(call)}\r\n\r\n"
        waits.sendall((head + call).encode())  # it waits in its lane until the end
        time.sleep(1)
        asyncio.run(_ask(base, "/v1/chat/completions", call, 429))
        asyncio.run(_ask(base, "/v1/jobs", f'{{"input":{call}}}', 429))
        api = next(p for p in psutil.Process().children(recursive=True) if kind(p) == "api")
        yield base, api.pid


async def _ask(base: tuple[str, int], path: str, body: str, expected: int) -> None:
    link = Connection(*base)
    async with asyncio.timeout(10):
        got = await link.request("POST", path, body.encode())
    link.close()
    if got.status != expected:
        raise RuntimeError(f"{path} answered {got.status}: {got.body!r}")


async def send(base: tuple[str, int], body: Body, content: bytes) -> int:
    """Send a body on a new connection; returns the status, or 0 if the server closed first."""
    link = Connection(*base)
    try:
        async with asyncio.timeout(PATIENCE_S):
            return (await link.request("POST", body.path, content, body.headers())).status
    except OSError:  # closed by the server, or too late
        return 0
    finally:
        link.close()


async def search(base: tuple[str, int], pid: int, args: argparse.Namespace) -> tuple[list[Body], int]:
    """Try bodies one at a time.

    Returns:
        Those that cost most time to answer others, most CPU, or most memory; and the number tried.
    """
    rng = random.Random(args.seed)
    watcher = Watcher(*base, pid)
    costs: dict[Body, tuple[float, float, float]] = {}

    async def tried(body: Body) -> None:
        content = body.content()[: args.max_bytes]
        watcher.look()
        await send(base, body, content)
        seen = watcher.look()
        costs[body] = (max(seen.ms), seen.cpu_s, float(seen.rss))

    def worst() -> list[Body]:
        kept: dict[Body, None] = {}
        for measure in range(3):
            ranked = sorted(costs, key=lambda body: costs[body][measure], reverse=True)
            kept |= dict.fromkeys(ranked[:KEPT])
        return list(kept)

    every = first_generation(tuple(args.sizes))
    for body in rng.sample(every, min(args.sample, len(every))):
        await tried(body)
    for generation in range(args.generations):
        for body in worst():
            for _ in range(3):
                await tried(varied(rng, body, args.max_bytes))
        top = max(cost[0] for cost in costs.values())
        print(f"generation {generation}: {len(costs)} bodies, worst answer {top:.0f} ms", file=sys.stderr)
    watcher.stop()
    kept = worst()
    for body in kept:
        ms, cpu_s, rss = costs[body]
        print(f"{ms:7.1f} ms {cpu_s:5.2f} s {rss / 1e6:6.0f} MB {body.size:9} {body.name()}", file=sys.stderr)
    return kept, len(costs)


async def storm(
    base: tuple[str, int], pid: int, worst: list[Body], seconds: float, max_bytes: int
) -> dict[str, Any]:
    """Send these bodies with all clients at once, and watch."""
    contents = [(body, body.content()[:max_bytes]) for body in worst]
    watcher = Watcher(*base, pid)
    await asyncio.sleep(2)
    before = watcher.look()
    statuses: Counter[int] = Counter()
    paths: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            body, content = rng.choice(contents)
            status = await send(base, body, content)
            statuses[status] += 1
            paths[body.path] += 1

    tasks = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    await asyncio.sleep(seconds)
    during = watcher.look()
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*tasks), 120)
    watcher.stop()
    return {
        "before": _percentiles(before.ms),
        "during": _percentiles(during.ms),
        "rss_before_mb": round(before.rss / 1e6, 1),
        "rss_more_mb": round((during.rss - before.rss) / 1e6, 1),
        "bodies": sum(statuses.values()),
        "per_s": round(sum(statuses.values()) / seconds, 1),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "paths": dict(paths),
        "megabytes": round(sum(len(content) for _, content in contents) / len(contents) / 1e6, 1),
    }


def _percentiles(ms: list[float]) -> dict[str, float]:
    return {
        "p50": round(percentile(ms, 0.5), 1),
        "p99": round(percentile(ms, 0.99), 1),
        "max": round(max(ms), 1),
        "answers": len(ms),
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    got = report["storm"]
    answered = ", ".join(f"{count:,} x {status}" for status, count in got["statuses"].items())
    said = (
        f"{report['kinds']} bodies of {got['megabytes']} MB on average, the worst of {report['tried']:,}; {CLIENTS} clients,"
        f" {report['seconds']:.0f} s, {got['bodies']:,} bodies sent, {got['per_s']} a second. Answers: {answered}."
    )
    failed = sum(count for status, count in got["statuses"].items() if status >= "500")
    before, during = (
        " / ".join(f"{got[when][k]}" for k in ("p50", "p99", "max")) for when in ("before", "during")
    )
    rows = [
        ["`GET /health/live`, p50 / p99 / most, before", f"{before} ms", None],
        ["the same meanwhile", f"{during} ms", "p99 < 50 ms"],
        ["memory more than before", f"{got['rss_more_mb']} MB", "< 200 MB"],
        ["answers of 5xx", failed, 0],
    ]
    return {"worst-bodies": f"{wrap(said)}\n\n{table(['', 'measured', 'bar'], rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60, help="how long they are sent (default %(default)s)"
    )
    parser.add_argument(
        "--generations", type=int, default=3, help="rounds of the search (default %(default)s)"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[60_000, 1_400_000, 16_000_000], help="bytes")
    parser.add_argument(
        "--sample", type=int, default=600, help="number of first bodies to try (default %(default)s)"
    )
    parser.add_argument("--max-bytes", type=int, default=16 * 1024 * 1024, help="cut bodies to this")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with full_api() as (base, pid):
        worst, tried = uvloop.run(search(base, pid, args))
    with full_api() as (base, pid):  # a new one: the search has grown its memory
        got = uvloop.run(storm(base, pid, worst, args.seconds, args.max_bytes))
    report = {
        "benchmark": "worst_bodies",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seconds": args.seconds,
        "tried": tried,
        "kinds": len(worst),
        "worst": [body.name() for body in worst],
        "storm": got,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
