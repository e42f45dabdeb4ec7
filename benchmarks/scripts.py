"""What a job costs Valkey: its own time and commands by stage, at scale, and bytes; the version before, and this one.

Straight at the job stores of both versions, each in a process of its own, in turn, on a fresh Valkey that has a core for
itself where there are two. The time is Valkey's own account (`INFO commandstats`), without the client's. It varies by up to
a half with the load of the machine, so read the ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import product
from typing import Any

import _before
from _commandstats import Cost, median
from _scripts_driver import SIDES, Driver
from _stack import machine
from _tables import table, wrap

QUICK = ("--jobs=300", "--at-once", "1", "32", "--stored=3000", "--queued=20000", "--seconds=5")
TABLES = ("scripts-stages", "scripts-scale", "scripts-memory")
PARTS = ("stages", "memory", "scale")
STAGES = ("accept", "claim", "chunks", "finish", "total")
BYTES_BEFORE = 1960
"""Of a queued job, when the bar was set."""

_SAMPLES_A_TURN = 10

unavailable = _before.unavailable


def stages(sides: Sequence[str], at_once: Sequence[int], jobs: int) -> dict[str, Any]:
    """Measure a job's stages, whole and streamed, for several numbers of jobs at once; the sides take turns by the batch.

    Args:
        jobs: about how many are run for each number.
    """
    found: dict[str, Any] = {side: {} for side in sides}
    with ExitStack() as up:
        drivers = {side: up.enter_context(Driver(side, files=True)) for side in sides}
        for way, count in product(("whole", "streamed"), at_once):
            seen: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            for number in range(1 + min(500, max(40, jobs // count))):
                for side in sides if number % 2 else reversed(sides):
                    seen[side].append(drivers[side].ask("batch", count=count, stream=way == "streamed"))
            for side, batches in seen.items():
                found[side][f"{way} {count}"] = per_job(batches[1:])
            print(f"scripts: {count} at once, {way}: done", file=sys.stderr, flush=True)
    return found


def per_job(batches: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    """Return the median cost of each stage, and their sum as ``total``."""
    costs = {stage: median(Cost(*one[stage]) for one in batches) for stage in batches[0]}
    costs["total"] = sum(costs.values(), Cost())
    return {stage: cost.rounded() for stage, cost in costs.items()}


def memory(side: str, jobs: int) -> dict[str, Any]:
    """Measure the bytes of jobs on one side."""
    with Driver(side, files=False) as driver:
        return driver.ask("memory", jobs=jobs)


def scale(side: str, samples: int, seconds: float, **size: int) -> dict[str, Any]:
    """Measure each operation of one side on an empty and on a full server in turn; then the fleet's upkeep.

    Args:
        seconds: for how long the fleet is watched.
        size: what the full server holds; see `_scripts_parts.fill`.
    """
    seen: dict[str, dict[str, list[Cost]]] = {"empty": {}, "full": {}}
    with Driver(side, files=False) as full, Driver(side, files=False) as empty:
        full.ask("fill", **size)
        for number in range(1 + samples // _SAMPLES_A_TURN):
            for depth, driver in (("empty", empty), ("full", full)):
                costs = driver.ask("operations", samples=_SAMPLES_A_TURN)
                for name, each in costs.items() if number else ():
                    seen[depth].setdefault(name, []).extend(Cost(*one) for one in each)
        upkeep = full.ask("upkeep", seconds=seconds)
    medians = {
        depth: {name: median(costs).rounded() for name, costs in found.items()}
        for depth, found in seen.items()
    }
    return size | medians | {"upkeep_share": upkeep["share"]}


def against(now: float, before: float) -> str:
    """Return a ratio for a table."""
    return f"{now / before:.2f}" if before else "-"


def _stages_table(found: Mapping[str, Any]) -> str:
    rows = []
    for way in next(iter(found.values())):
        kind, count = way.split()
        for stage in STAGES:
            costs = [found.get(side, {}).get(way, {}).get(stage) for side in SIDES]
            if not any(costs):
                continue
            name = {"total": "**all**", "chunks": "10 chunks"}.get(stage, stage)
            cells: list[Any] = [count, kind, name]
            for figure in ("us", "commands"):
                cells += [None if cost is None else f"{cost[figure]:.1f}" for cost in costs]
                cells.append(against(costs[1][figure], costs[0][figure]) if all(costs) else None)
            rows.append(cells)
    figures = ["µs before", "now", "ratio", "commands before", "now", "ratio"]
    return table(["at once", "answer", "stage", *figures], rows)


def _scale_table(found: Mapping[str, Any]) -> str:
    rows = []
    sides = [side for side in SIDES if side in found]
    for name in found[sides[0]]["full"]:
        cells: list[Any] = [name]
        for side in sides:
            empty, full = (found[side][depth][name] for depth in ("empty", "full"))
            cells += [f"{empty['us']:.0f}", f"{full['us']:.0f}", against(full["us"], empty["us"])]
            cells.append(f"{empty['commands']:.0f} / {full['commands']:.0f}")
        rows.append(cells)
    rows.append(["heartbeats and reapers of the fleet, of one core"])
    for side in sides:
        rows[-1] += [None, f"{found[side]['upkeep_share']:.2%}", None, None]
    header = [title for side in sides for title in (f"{side}: empty, µs", "full, µs", "ratio", "commands")]
    return table(["", *header], rows)


def _memory_table(found: Mapping[str, Any]) -> str:
    rows = []
    for name in ("queued", "finished"):
        each = [found[side][name] if side in found else None for side in SIDES]
        ratio = against(each[1], each[0]) if all(each) else None
        rows.append([f"bytes of a {name} job", *(f"{one:,}" if one else None for one in each), ratio])
    return table(["", "before", "now", "ratio"], rows)


def tables(report: Mapping[str, Any]) -> dict[str, str]:
    """The page's tables."""
    given, found = report["settings"], {}
    if stages := report.get("stages"):
        said = (
            "Valkey's own time and the commands that it carries out, per job; medians of batches, both sides in turn."
            " A caller waits for each job. Bars for accept, claim and finish: at most 40 commands, and 85 µs: 0.48 of the"
            " version before when the bar was set (aim: 60 µs)."
        )
        found["scripts-stages"] = f"{wrap(said)}\n\n{_stages_table(stages)}"
    if scale := report.get("scale"):
        facts = next(iter(scale.values()))
        said = (
            f"Full: {facts['queued']:,} jobs queued by {facts['tenants']:,} tenants, {facts['workers']} workers that run"
            f" eight jobs each. Empty: nothing queued, one worker. Medians of {given['samples']} of each operation, one at a"
            " time, on both in turn. Bars: 1.3, and 2 % of a core. Commands: empty / full; where they are equal, a ratio"
            " above 1 is the price of a memory that is larger than the processor's caches."
        )
        found["scripts-scale"] = f"{wrap(said)}\n\n{_scale_table(scale)}"
    if memory := report.get("memory"):
        facts = next(iter(memory.values()))
        said = (
            f"{facts['jobs']:,} jobs of ten tenants, requests of about 300 bytes, results of about 500. Bar: 60 % of"
            f" {BYTES_BEFORE:,}, which is {round(BYTES_BEFORE * 0.6):,}."
        )
        found["scripts-memory"] = f"{wrap(said)}\n\n{_memory_table(memory)}"
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--at-once", type=int, nargs="+", default=[1, 32, 256], metavar="N", help="jobs that run together"
    )
    parser.add_argument("--jobs", type=int, default=5000, help="run for each number (default %(default)s)")
    parser.add_argument("--stored", type=int, default=50_000, help="jobs whose bytes are measured")
    parser.add_argument("--queued", type=int, default=1_000_000, help="jobs of the full queue")
    parser.add_argument("--tenants", type=int, default=1000, help="tenants that queue them")
    parser.add_argument("--workers", type=int, default=200, help="workers of the fleet")
    parser.add_argument("--samples", type=int, default=100, help="of each operation at scale")
    parser.add_argument("--seconds", type=float, default=15.0, help="for which the fleet is watched")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="these only")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES, help="these only")
    parser.add_argument("--tables", action="store_true", help="print the tables instead of the report")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "scripts",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "settings": {name: value for name, value in vars(args).items() if name != "tables"},
    }
    if "stages" in args.parts:
        report["stages"] = stages(args.sides, args.at_once, args.jobs)
    if "memory" in args.parts:
        report["memory"] = {side: memory(side, args.stored) for side in args.sides}
    if "scale" in args.parts:
        names = ("queued", "tenants", "workers", "samples", "seconds")
        options = {name: getattr(args, name) for name in names}
        report["scale"] = {side: scale(side, **options) for side in args.sides}
    if args.tables:
        print("\n\n".join(tables(report).values()))
    else:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
