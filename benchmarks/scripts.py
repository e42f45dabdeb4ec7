"""What a job costs Valkey: its own time and commands by stage, at scale, and bytes; the version before, and this one.

Straight at the job stores of both versions, each in a process of its own, in turn, on a fresh Valkey that has a core for
itself where there are two. The time is Valkey's own account (`INFO commandstats`), so a busy machine changes it little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _before
from _stack import ROOT, machine
from _tables import table, wrap
from redis import Redis

from penstock.server.valkey import EmbeddedServer

QUICK = ("--rounds=1", "--jobs=300", "--at-once", "1", "32", "--stored=3000", "--queued=20000", "--seconds=5")
TABLES = ("scripts-stages", "scripts-scale", "scripts-memory")
HERE = Path(__file__).parent
SIDES = ("before", "now")
PARTS = ("stages", "memory", "scale")
STAGES = ("accept", "claim", "chunks", "finish", "total")
BYTES_BEFORE = 1960
"""Of a queued job, when the bar was set."""

unavailable = _before.unavailable


def measure(side: str, part: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run one part on one side, on a Valkey of its own; return what its process printed.

    Raises:
        RuntimeError: the process failed; it has said why on stderr.
    """
    code = ROOT if side == "now" else _before.checkout()
    with tempfile.TemporaryDirectory(prefix="bench") as folder, EmbeddedServer(Path(folder)) as server:
        cores = sorted(os.sched_getaffinity(0))
        assert server.pid is not None
        os.sched_setaffinity(server.pid, cores[-1:])
        if part != "stages":  # these do not ask what the file costs, and it would be large
            with Redis.from_url(server.url) as client:
                client.config_set("appendonly", "no")
        asked = {"part": part, "options": options, "url": server.url, "code": str(code)}
        done = subprocess.run(
            [sys.executable, str(HERE / f"_scripts_{side}.py"), json.dumps(asked)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(code)},
            stdout=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[:-1] or cores),
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"the side {side!r} could not measure {part}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def in_turn(sides: Sequence[str], rounds: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the stages on all sides in every round, each round in another order; return the medians."""
    seen: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            seen[side].append(measure(side, "stages", options))
            print(f"scripts: stages, {side}, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {side: middle(found) for side, found in seen.items()}


def middle(reports: Sequence[Any]) -> Any:
    """Return the median of every number in reports of one shape."""
    first = reports[0]
    if isinstance(first, Mapping):
        return {name: middle([report[name] for report in reports]) for name in first}
    return round(statistics.median(reports), 2)


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
            empty, full = (found[side][depth][name]["us"] for depth in ("empty", "full"))
            cells += [f"{empty:.0f}", f"{full:.0f}", against(full, empty)]
        rows.append(cells)
    rows.append(["heartbeats and reapers of the fleet, of one core"])
    for side in sides:
        rows[-1] += [None, f"{found[side]['upkeep_share']:.2%}", None]
    header = [title for side in sides for title in (f"{side}: empty, µs", "full, µs", "ratio")]
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
            f"Valkey's own time and the commands that it carries out, per job; medians of {given['rounds']} rounds in turn."
            " A caller waits for each job. Bars: at most 85 µs and 40 commands for accept, claim and finish (aim: 60 µs)."
        )
        found["scripts-stages"] = f"{wrap(said)}\n\n{_stages_table(stages)}"
    if scale := report.get("scale"):
        facts = next(iter(scale.values()))
        said = (
            f"Full: {facts['queued']:,} jobs queued by {facts['tenants']:,} tenants, {facts['workers']} workers that run"
            f" eight jobs each. Empty: nothing queued, one worker. Medians of {given['samples']} of each operation, one at a"
            " time. Bars: 1.3, and 2 % of a core."
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
    parser.add_argument("--rounds", type=int, default=5, help="of the stages (default %(default)s)")
    parser.add_argument(
        "--at-once", type=int, nargs="+", default=[1, 32, 256], metavar="N", help="jobs that run together"
    )
    parser.add_argument("--jobs", type=int, default=2000, help="per number at once and round")
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
    options: dict[str, dict[str, Any]] = {
        "stages": {"at_once": args.at_once, "jobs": args.jobs},
        "memory": {"jobs": args.stored},
        "scale": {
            name: getattr(args, name) for name in ("queued", "tenants", "workers", "samples", "seconds")
        },
    }
    report: dict[str, Any] = {
        "benchmark": "scripts",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "settings": {name: value for name, value in vars(args).items() if name != "tables"},
    }
    if "stages" in args.parts:
        report["stages"] = in_turn(args.sides, args.rounds, options["stages"])
    for part in ("memory", "scale"):
        if part in args.parts:
            report[part] = {side: measure(side, part, options[part]) for side in args.sides}
    if args.tables:
        print("\n\n".join(tables(report).values()))
    else:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
