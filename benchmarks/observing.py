"""What being observed costs: throughput and CPU with metrics, task events and traces, against none of them.

One stack per side, all up at once, measured in turn, round by round, by the same client; a ratio is the median of its
rounds. CPU is that of the stack's processes, client and collector not among them: where the cores are the limit its ratio
says the same as the throughput's, and it hardly notices what else runs on the machine. The side with nothing does not even
count: a shim (``_silent``) makes the metrics' methods empty there. Where metrics are on they are scraped every five
seconds, and where traces are on a small collector takes them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import uvloop
from _client import drive
from _stack import cpu_s, free_port, machine, penstock_up, processes_of
from _tables import table, wrap

BODY = {"model": "simulated", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 16}
QUICK = ("--jobs=500", "--rounds=2")
TABLES = ("observing",)
SCRAPE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Side:
    """One way to be observed. ``traces_per_s``: None is no traces, 0 is every one; ``every``: every job's task events."""

    name: str
    metrics: bool = False
    events: bool = False
    traces_per_s: float | None = None
    every: bool = False

    def env(self, collector: str) -> dict[str, str]:
        """Return the environment that makes it so."""
        env = {"PENSTOCK_TASK_EVENTS": str(self.events).lower()}
        if self.every:
            env["PENSTOCK_TASK_EVENTS_MAX_PER_S"] = "0"
        if not self.metrics:
            shim = str(Path(__file__).parent / "_silent")
            env["PYTHONPATH"] = os.pathsep.join(filter(None, [shim, os.environ.get("PYTHONPATH")]))
        if self.traces_per_s is not None:
            env |= {"PENSTOCK_OTLP_ENDPOINT": collector, "PENSTOCK_TRACE_MAX_PER_S": str(self.traces_per_s)}
        return env


def sides(default_per_s: float) -> list[Side]:
    """Return what is compared; the first is the measure of the others."""
    return [
        Side("nothing"),
        Side("metrics, scraped", metrics=True),
        Side("task events", events=True),
        Side(f"traces, {default_per_s:g} a second (default)", traces_per_s=default_per_s),
        Side("all three with the defaults", metrics=True, events=True, traces_per_s=default_per_s),
        Side("all three, of every job", metrics=True, events=True, traces_per_s=0.0, every=True),
    ]


async def _collect(port: int) -> None:
    """Take what exporters send, and throw it away."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
                )

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


@contextmanager
def collector() -> Iterator[str]:
    """Run the collector in a process of its own; yields its address."""
    port = free_port()
    with subprocess.Popen([sys.executable, __file__, "--collector", str(port)]) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def scrape(base: tuple[str, int]) -> None:
    """Scrape the api and its workers, as Prometheus would, until cancelled."""
    root = f"http://{base[0]}:{base[1]}"

    def get(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bytes(answer.read())

    workers = json.loads(await asyncio.to_thread(get, f"{root}/v1/workers"))["data"]
    targets = [f"{root}/metrics", *(worker["metrics_url"] for worker in workers)]
    while True:
        for target in targets:
            await asyncio.to_thread(get, target)
        await asyncio.sleep(SCRAPE_EVERY_S)


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack: who watches it, where it listens, and its processes."""

    side: Side
    base: tuple[str, int]
    processes: tuple[psutil.Process, ...]


def stack(side: Side, base: tuple[str, int]) -> Stack:
    """Find the processes of a stack that is up."""
    return Stack(side, base, processes_of(base))


async def measure_once(one: Stack, jobs: int, concurrency: int) -> tuple[float, float]:
    """Measure one side once: jobs per second, and CPU milliseconds per job."""
    base, side, before = one.base, one.side, cpu_s(one.processes)
    scraper = asyncio.create_task(scrape(base)) if side.metrics else None
    load = await drive(base, "/v1/chat/completions", [BODY] * jobs, concurrency)
    if scraper is not None:
        scraper.cancel()
        await asyncio.gather(scraper, return_exceptions=True)
    return load.rate, (cpu_s(one.processes) - before) / jobs * 1000


async def measure(
    stacks: list[Stack], jobs: int, concurrency: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Measure every side in every round, each round in another order."""
    seen: dict[str, list[tuple[float, float]]] = {one.side.name: [] for one in stacks}
    for one in stacks:
        await measure_once(one, 300, concurrency)
    for number in range(rounds):
        turn = number % len(stacks)
        for one in [*stacks[turn:], *stacks[:turn]]:
            seen[one.side.name].append(await measure_once(one, jobs, concurrency))
        print(f"observing: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seen


def summary(name: str, seen: list[tuple[float, float]], off: list[tuple[float, float]]) -> dict[str, Any]:
    """Summarise one side against the one that nobody watches. Ratios below 1 are a cost."""
    rates = sorted(on[0] / base[0] for on, base in zip(seen, off, strict=True))
    return {
        "side": name,
        "jobs_per_s": round(statistics.median(rate for rate, _ in seen), 1),
        "ratio": round(statistics.median(rates), 3),
        "low": round(rates[len(rates) // 4], 3),
        "high": round(rates[(3 * len(rates) - 1) // 4], 3),
        "cpu_ms": round(statistics.median(cpu for _, cpu in seen), 3),
        "cpu_ratio": round(statistics.median(base[1] / on[1] for on, base in zip(seen, off, strict=True)), 3),
        "rounds": [[round(rate, 1), round(cpu, 3)] for rate, cpu in seen],
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    rows = [
        [
            row["side"],
            f"{row['jobs_per_s']:.0f}",
            f"{row['ratio']:.2f} ({row['low']:.2f} - {row['high']:.2f})",
            f"{row['cpu_ms']:.2f} ms",
            f"{row['cpu_ratio']:.2f}",
        ]
        for row in report["rows"]
    ]
    said = (
        f"{report['jobs']} synchronous jobs per side and round, {report['rounds']} rounds, {report['concurrency']} clients "
        "on the same cores, simulated engine. Medians; in brackets the middle half of the rounds."
    )
    header = ["observed by", "jobs/s", "ratio", "CPU per job", "ratio"]
    return {"observing": f"{wrap(said)}\n\n{table(header, rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs", type=int, default=2000, help="jobs per side and round (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds (default %(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="clients at once (default %(default)s)")
    parser.add_argument("--collector", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.collector:
        asyncio.run(_collect(args.collector))
        return
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from broker.settings import BrokerSettings

    default_per_s = BrokerSettings.model_fields["trace_max_per_s"].default
    with ExitStack() as up:
        address = up.enter_context(collector())
        stacks = [
            stack(side, up.enter_context(penstock_up("--engine=simulated", **side.env(address))))
            for side in sides(default_per_s)
        ]
        seen = uvloop.run(measure(stacks, args.jobs, args.concurrency, args.rounds))
    off = seen[stacks[0].side.name]
    rows = [summary(name, measured, off) for name, measured in seen.items()]
    report = {
        "benchmark": "observing",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "jobs": args.jobs,
        "rounds": args.rounds,
        "concurrency": args.concurrency,
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
