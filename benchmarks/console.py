"""The console under load: how fast each page comes with 10,000 jobs and 50 workers, and what open consoles cost the api.

One `penstock up` with the simulated engine. Beside its own worker, 50 more are records with heartbeats (`_console_seed.py`),
and the jobs are in every state. Pages are asked for one at a time, as a browser would. Then the same client drives chat
completions, in rounds with three consoles open and rounds with none, in turn: a console here is a page and its live stream,
read to its end. The ratio is the median of the pairs of rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvloop
from _client import Connection, drive, percentile
from _console_seed import Counts, House
from _stack import machine, penstock_up
from _tables import table, wrap

from penstock.server.valkey import EmbeddedServer

QUICK = ("--jobs=500", "--workers=5", "--looks=5", "--calls=300", "--rounds=2")
TABLES = ("console-pages", "console-cost")
BODY = {"model": "simulated", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 16}
ROOT = "/console"
PAGES = {
    "queues": "",
    "jobs": "/jobs",
    "jobs, filtered": "/jobs?state=failed&model=org/model-3",
    "a job": "/jobs/{job}",
    "dead": "/dead",
    "workers": "/workers",
    "batches": "/batches",
    "a batch": "/batches/{batch}",
    "playground": "/playground",
    "keys": "/keys",
    "tenants": "/tenants",
    "usage": "/usage",
    "audit": "/audit",
}
OPEN = ("queues", "jobs", "workers")
"""The pages of the consoles that are open during the load: those that change the most."""

MOST_MS = 300.0
LEAST_RATIO = 0.98


async def times(base: tuple[str, int], path: str, looks: int) -> dict[str, Any]:
    """Ask for a page again and again.

    Raises:
        RuntimeError: an answer was not 200.
    """
    link = Connection(*base)
    took, size = [], 0
    for _ in range(looks + 1):
        reply = await link.request("GET", path, headers="accept: text/html\r\n")
        if reply.status != 200:
            raise RuntimeError(f"{path} answered {reply.status}: {reply.body[:300]!r}")
        took.append(reply.total_s * 1000)
        size = len(reply.body)
    link.close()
    warm = took[1:]
    return {
        "first_ms": round(took[0], 1),
        "p50_ms": round(percentile(warm, 0.5), 1),
        "max_ms": round(max(warm), 1),
        "kb": round(size / 1000, 1),
    }


async def batches(url: str, count: int) -> str:
    """Make some batches of ten rows; return the id of the last."""
    row = {"method": "POST", "url": "/v1/chat/completions", "body": BODY}
    lines = "".join(json.dumps({"custom_id": f"row-{n}", **row}) + "\n" for n in range(10))
    made = ""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for _ in range(count):
            form = {"file": ("rows.jsonl", lines)}
            file = (await client.post("/v1/files", data={"purpose": "batch"}, files=form)).raise_for_status()
            said = {"input_file_id": file.json()["id"], "endpoint": row["url"], "completion_window": "24h"}
            made = (await client.post("/v1/batches", json=said)).raise_for_status().json()["id"]
    return made


async def a_job(url: str) -> str:
    """Return the id of a failed job."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        found = await client.get("/v1/dead", params={"limit": 1})
        return str(found.raise_for_status().json()["data"][0]["id"])


class Consoles:
    """Open consoles: a page each, and its live stream.

    Attributes:
        events: how often a page was told of a change.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.events = 0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep them open during the block."""
        async with httpx.AsyncClient(base_url=self._url, timeout=None) as client:
            tasks = [asyncio.create_task(self._look(client, name)) for name in OPEN]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                done = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [one for one in done if not isinstance(one, asyncio.CancelledError)]
        if failed:
            raise RuntimeError(f"a console ended before the load: {failed[0]!r}")

    async def _look(self, client: httpx.AsyncClient, name: str) -> None:
        (await client.get(ROOT + PAGES[name])).raise_for_status()
        async with client.stream("GET", f"{ROOT}/events", params={"page": ROOT + PAGES[name]}) as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                self.events += line.startswith("event: parts")


async def cost(
    base: tuple[str, int], calls: int, rounds: int, concurrency: int
) -> tuple[list[list[float]], int]:
    """Return the calls per second of each round, without and with open consoles, and how many changes those saw."""
    consoles = Consoles(f"http://{base[0]}:{base[1]}")
    await drive(base, "/v1/chat/completions", [BODY] * min(calls, 300), concurrency)
    seen = []
    for number in range(rounds):
        pair = [0.0, 0.0]
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            async with consoles.opened() if side else contextlib.nullcontext():
                pair[side] = (await drive(base, "/v1/chat/completions", [BODY] * calls, concurrency)).rate
        seen.append(pair)
        print(f"console: round {number + 1} of {rounds}: {pair}", file=sys.stderr, flush=True)
    return seen, consoles.events


async def measure(base: tuple[str, int], data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seed the server, ask for each page, and drive the api."""
    url = f"http://{base[0]}:{base[1]}"
    house = House(EmbeddedServer(data).url, args.workers)
    try:
        await house.open(Counts.of(args.jobs))
        named = {"batch": await batches(url, 20), "job": await a_job(url)}
        print("console: seeded", file=sys.stderr, flush=True)
        pages = [
            {"page": name} | await times(base, ROOT + path.format(**named), args.looks)
            for name, path in PAGES.items()
        ]
        rounds, events = await cost(base, args.calls, args.rounds, args.concurrency)
    finally:
        await house.aclose()
    ratios = sorted(watched / alone for alone, watched in rounds)
    return {
        "pages": pages,
        "slowest_ms": max(row["max_ms"] for row in pages),
        "ratio": round(statistics.median(ratios), 3),
        "low": round(ratios[len(ratios) // 4], 3),
        "high": round(ratios[(3 * len(ratios) - 1) // 4], 3),
        "alone_per_s": round(statistics.median(alone for alone, _ in rounds), 1),
        "watched_per_s": round(statistics.median(watched for _, watched in rounds), 1),
        "events": events,
        "per_round": [[round(rate, 1) for rate in pair] for pair in rounds],
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    rows = [
        [row["page"], row["p50_ms"], row["max_ms"], row["first_ms"], row["kb"]] for row in report["pages"]
    ]
    said = (
        f"{report['jobs']:,} jobs in every state, {report['workers']} workers in ten pools, {report['looks']} looks at each "
        "page, one at a time; the first look, which reads its templates, by itself."
    )
    pages = table(["page", "p50, ms", "slowest, ms", "first look, ms", "HTML, kB"], rows)
    header = ["consoles open", "calls/s", "ratio"]
    middle = f"{report['ratio']:.3f} ({report['low']:.3f} - {report['high']:.3f})"
    costs = table(
        header,
        [
            ["none", f"{report['alone_per_s']:.0f}", "1"],
            [len(OPEN), f"{report['watched_per_s']:.0f}", middle],
        ],
    )
    how = (
        f"{report['calls']} chat completions a round, {report['rounds']} pairs of rounds, {report['concurrency']} clients "
        f"on the same cores, simulated engine; the consoles saw {report['events']} changes. Medians; in brackets the middle "
        "half."
    )
    return {"console-pages": f"{wrap(said)}\n\n{pages}", "console-cost": f"{wrap(how)}\n\n{costs}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000, help="jobs to seed (default %(default)s)")
    parser.add_argument("--workers", type=int, default=50, help="workers to seed (default %(default)s)")
    parser.add_argument("--looks", type=int, default=20, help="looks at each page (default %(default)s)")
    parser.add_argument("--calls", type=int, default=4000, help="calls a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of rounds (default %(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="clients at once (default %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ps") as folder:
        data = Path(folder)
        with penstock_up("--engine=simulated", data_dir=data, PENSTOCK_QUEUE_MAX="1000000") as base:
            report = uvloop.run(measure(base, data, args))
    facts = {"benchmark": "console", "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    given = {
        name: getattr(args, name) for name in ("jobs", "workers", "looks", "calls", "rounds", "concurrency")
    }
    bars = {"most_ms": MOST_MS, "least_ratio": LEAST_RATIO}
    print(json.dumps(facts | given | bars | report, indent=2))


if __name__ == "__main__":
    main()
