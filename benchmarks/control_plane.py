"""Jobs per second through the whole control plane, with the simulated engine.

Accepted over HTTP, queued, claimed by the Celery worker, run and answered; the client shares the machine's cores. Three
ways: synchronous OpenAI calls, submissions with ``Prefer: wait``, and submit-then-poll, where every job is submitted
first and then waited for. The version before runs beside this one, and both are measured in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, TypeAlias

import _before
import uvloop
from _client import Connection, Load, drive, percentile
from _stack import ROOT, cpu_s, machine, penstock_up, processes_of
from _tables import table, wrap

Base: TypeAlias = tuple[str, int]
Row: TypeAlias = dict[str, float | str]
BODY = {"model": "simulated", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 16}
QUICK = ("--jobs=500", "--concurrency=32", "--rounds=1")
TABLES = ("control-plane",)


def row(name: str, load: Load) -> Row:
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


async def submit_and_poll(base: Base, jobs: int, concurrency: int) -> Row:
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


async def synchronous(base: Base, jobs: int, concurrency: int) -> Row:
    """OpenAI calls."""
    return row("synchronous", await drive(base, "/v1/chat/completions", [BODY] * jobs, concurrency))


async def streamed(base: Base, jobs: int, concurrency: int) -> Row:
    """The same, as streams."""
    bodies = [BODY | {"stream": True}] * jobs
    return row("streamed", await drive(base, "/v1/chat/completions", bodies, concurrency))


async def waited(base: Base, jobs: int, concurrency: int) -> Row:
    """Submissions that wait for the result."""
    bodies = [{"model": "simulated", "input": BODY}] * jobs
    return row("jobs, wait", await drive(base, "/v1/jobs", bodies, concurrency, "prefer: wait=60\r\n"))


WAYS = (synchronous, streamed, waited, submit_and_poll)


async def measure(
    sides: Mapping[str, Base], jobs: int, concurrency: int, rounds: int
) -> dict[str, list[list[Row]]]:
    """Run every way on every side in turn, after a warm-up. Returns the rows by side: each round's, in the ways' order."""
    for base in sides.values():
        await drive(base, "/v1/chat/completions", [BODY] * 200, concurrency)
    processes = {side: processes_of(base) for side, base in sides.items()}
    seen: dict[str, list[list[Row]]] = {side: [[] for _ in range(rounds)] for side in sides}
    for number in range(rounds):
        for place, way in enumerate(WAYS):
            order = list(sides) if (number + place) % 2 == 0 else list(reversed(sides))
            for side in order:
                before_s = cpu_s(processes[side])
                found = await way(sides[side], jobs, concurrency)
                found["cpu_ms"] = round((cpu_s(processes[side]) - before_s) / jobs * 1000, 3)
                seen[side][number].append(found)
        print(f"control_plane: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seen


def middle(rounds: Sequence[Sequence[Row]]) -> list[Row]:
    """Return each way's row of the round whose rate is the median, with the median CPU time."""
    found = []
    for way in zip(*rounds, strict=True):
        row = sorted(way, key=lambda one: float(one["jobs_per_s"]))[(len(way) - 1) // 2]
        found.append(row | {"cpu_ms": statistics.median(float(one["cpu_ms"]) for one in way)})
    return found


def ratios(now: Sequence[Sequence[Row]], before: Sequence[Sequence[Row]]) -> dict[str, list[float]]:
    """Return by way this version's rate against that of the version before, round by round."""
    found: dict[str, list[float]] = {}
    for mine, theirs in zip(now, before, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            ratio = float(one["jobs_per_s"]) / float(other["jobs_per_s"])
            found.setdefault(str(one["way"]), []).append(round(ratio, 2))
    return found


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    *ways, polled = report["rows"]
    rows = [[w["way"], f"{w['jobs_per_s']:.0f}", f"{w['mean_ms']} ms", f"{w['p99_ms']} ms"] for w in ways]
    rows.append([polled["way"], f"{polled['jobs_per_s']:.0f}", None, None])
    header = ["way", "jobs/s", "mean", "p99"]
    events = "on" if report["task_events"] else "off"
    said = (
        f"{ways[0]['jobs']} jobs per way, {report['concurrency']} clients on the same cores, task events {events}."
        f" Submissions alone: {polled['accepted_per_s']:,.0f} accepted per second while the worker drains them."
    )
    if before := report.get("before"):
        header += ["the version before, jobs/s", "ratio (rounds)", "CPU per job", "before", "ratio"]
        for cells, here, there in zip(rows, report["rows"], before, strict=True):
            each = report["ratios"][there["way"]]
            seen = ", ".join(f"{one:.2f}" for one in each)
            cells += [f"{there['jobs_per_s']:.0f}", f"{statistics.median(each):.2f} ({seen})"]
            cpu, other = here["cpu_ms"], there["cpu_ms"]
            cells += [f"{cpu:.2f} ms", f"{other:.2f} ms", f"{other / cpu:.2f}"]
        said += (
            f" Both versions run at once and are measured in turn, {len(each)} rounds."
            " Bar: 1.3, synchronous and streamed. CPU time is that of api, worker, Valkey and the rest of the stack."
        )
    return {"control-plane": f"{wrap(said)}\n\n{table(header, rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs", type=int, default=3000, help="jobs per way, side and round (default %(default)s)"
    )
    parser.add_argument("--concurrency", type=int, default=128, help="clients at once (default %(default)s)")
    parser.add_argument(
        "--no-task-events", action="store_true", help="without the Celery events that Flower shows"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each way and side (default %(default)s)")
    parser.add_argument("--alone", action="store_true", help="without the version before")
    args = parser.parse_args()
    env = {"PENSTOCK_TASK_EVENTS": "false"} if args.no_task_events else {}
    reason = "--alone" if args.alone else _before.unavailable()
    if reason:
        print(f"control_plane: without the version before: {reason}", file=sys.stderr, flush=True)
    code = {"now": ROOT} if reason else {"now": ROOT, "before": _before.checkout()}
    with ExitStack() as up:
        sides = {
            side: up.enter_context(penstock_up("--engine=simulated", code=folder, **env))
            for side, folder in code.items()
        }
        seen = uvloop.run(measure(sides, args.jobs, args.concurrency, args.rounds))
    report: dict[str, Any] = {
        "benchmark": "control_plane",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "concurrency": args.concurrency,
        "task_events": not args.no_task_events,
        "rows": middle(seen["now"]),
    }
    if "before" in seen:
        report |= {"before": middle(seen["before"]), "ratios": ratios(seen["now"], seen["before"])}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
