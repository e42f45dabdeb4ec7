"""Jobs per second through the whole control plane, with the simulated engine.

Accepted over HTTP, queued, claimed by the Celery worker, run and answered; the client shares the machine's cores. Three
ways: synchronous OpenAI calls, submissions with ``Prefer: wait``, and submit-then-poll, where every job is submitted
first and then waited for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from datetime import UTC, datetime
from typing import Any

import uvloop
from _client import Connection, Load, drive, percentile
from _stack import machine, penstock_up
from _tables import table, wrap

BODY = {"model": "simulated", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 16}
QUICK = ("--jobs=500", "--concurrency=32")
TABLES = ("control-plane",)


def row(name: str, load: Load) -> dict[str, float | str]:
    """Summarise one way."""
    totals = [reply.total_s * 1000 for reply in load.replies]
    return {
        "way": name,
        "jobs": len(totals),
        "jobs_per_s": round(load.rate, 1),
        "mean_ms": round(statistics.mean(totals), 1),
        "p50_ms": round(percentile(totals, 0.5), 1),
        "p99_ms": round(percentile(totals, 0.99), 1),
    }


async def submit_and_poll(base: tuple[str, int], jobs: int, concurrency: int) -> dict[str, float | str]:
    """Submit all, then wait for each; time counts from the first submission to the last answer."""
    start = time.perf_counter()
    submission = {"model": "simulated", "input": BODY}
    load = await drive(base, "/v1/jobs", [submission] * jobs, concurrency)
    accepted_s = load.wall_s
    ids = [json.loads(reply.body)["id"] for reply in load.replies]

    async def poll() -> None:
        connection = Connection(*base)
        while ids:
            job_id = ids.pop()
            reply = await connection.request("GET", f"/v1/jobs/{job_id}?wait=60")
            if json.loads(reply.body)["state"] != "succeeded":
                raise RuntimeError(reply.body[:300])
        connection.close()

    await asyncio.gather(*(poll() for _ in range(concurrency)))
    wall_s = time.perf_counter() - start
    return {
        "way": "submit, then poll",
        "jobs": jobs,
        "jobs_per_s": round(jobs / wall_s, 1),
        "accepted_per_s": round(jobs / accepted_s, 1),
    }


async def measure(base: tuple[str, int], jobs: int, concurrency: int) -> list[dict[str, float | str]]:
    """Run every way once, after a warm-up."""
    await drive(base, "/v1/chat/completions", [BODY] * 200, concurrency)
    submission = {"model": "simulated", "input": BODY}
    return [
        row("synchronous", await drive(base, "/v1/chat/completions", [BODY] * jobs, concurrency)),
        row(
            "streamed",
            await drive(base, "/v1/chat/completions", [BODY | {"stream": True}] * jobs, concurrency),
        ),
        row(
            "jobs, wait",
            await drive(base, "/v1/jobs", [submission] * jobs, concurrency, "prefer: wait=60\r\n"),
        ),
        await submit_and_poll(base, jobs, concurrency),
    ]


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    *ways, polled = report["rows"]
    rows = [[w["way"], f"{w['jobs_per_s']:.0f}", f"{w['mean_ms']} ms", f"{w['p99_ms']} ms"] for w in ways]
    rows.append([polled["way"], f"{polled['jobs_per_s']:.0f}", None, None])
    events = "on" if report["task_events"] else "off"
    said = (
        f"{ways[0]['jobs']} jobs per way, {report['concurrency']} clients on the same cores, task events {events}."
        f" Submissions alone: {polled['accepted_per_s']:,.0f} accepted per second while the worker drains them."
    )
    return {"control-plane": f"{wrap(said)}\n\n{table(['way', 'jobs/s', 'mean', 'p99'], rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=5000, help="jobs per way (default %(default)s)")
    parser.add_argument("--concurrency", type=int, default=128, help="clients at once (default %(default)s)")
    parser.add_argument(
        "--no-task-events", action="store_true", help="without the Celery events that Flower shows"
    )
    args = parser.parse_args()
    env = {"PENSTOCK_TASK_EVENTS": "false"} if args.no_task_events else {}
    with penstock_up("--engine=simulated", **env) as base:
        rows = uvloop.run(measure(base, args.jobs, args.concurrency))
    report = {
        "benchmark": "control_plane",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "concurrency": args.concurrency,
        "task_events": not args.no_task_events,
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
