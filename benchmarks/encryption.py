"""What encryption at rest costs: throughput and CPU with keys, against none, whole and streamed.

One stack per side, both up at once, measured in turn, round by round, by the same client; a ratio is the median of its
rounds. CPU is that of the stack's processes, without the client's. Requests and answers have about a kilobyte.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import sys
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import uvloop
from _client import drive
from _stack import cpu_s, machine, penstock_up, processes_of
from _tables import table, wrap

BODY: dict[str, Any] = {
    "model": "simulated",
    "messages": [{"role": "user", "content": "Hello there, how are you? " * 40}],
    "max_tokens": 64,
}
QUICK = ("--jobs=300", "--rounds=2")
TABLES = ("encryption",)
KINDS = {"whole": BODY, "streamed": BODY | {"stream": True}}

Seen = dict[tuple[str, str], list[tuple[float, float]]]


async def measure(bases: dict[str, tuple[str, int]], jobs: int, concurrency: int, rounds: int) -> Seen:
    """Measure each kind of call on both sides in every round: jobs per second, CPU milliseconds per job."""
    seen: Seen = {(kind, side): [] for kind in KINDS for side in bases}
    processes = {side: processes_of(base) for side, base in bases.items()}
    for number in range(-1, rounds):  # the first warms up
        for kind, body in KINDS.items():
            for side in bases if number % 2 else reversed(bases):
                before = cpu_s(processes[side])
                load = await drive(bases[side], "/v1/chat/completions", [body] * jobs, concurrency)
                if number >= 0:
                    cpu_ms = (cpu_s(processes[side]) - before) / jobs * 1000
                    seen[kind, side].append((load.rate, cpu_ms))
        print(f"encryption: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return seen


def summary(kind: str, seen: Seen) -> dict[str, Any]:
    """Summarise one kind of call. Ratios below 1 are a cost."""
    off, on = seen[kind, "off"], seen[kind, "on"]
    return {
        "kind": kind,
        "off_per_s": round(statistics.median(rate for rate, _ in off), 1),
        "on_per_s": round(statistics.median(rate for rate, _ in on), 1),
        "ratio": round(statistics.median(b[0] / a[0] for a, b in zip(off, on, strict=True)), 3),
        "off_cpu_ms": round(statistics.median(cpu for _, cpu in off), 3),
        "on_cpu_ms": round(statistics.median(cpu for _, cpu in on), 3),
        "cpu_ratio": round(statistics.median(a[1] / b[1] for a, b in zip(off, on, strict=True)), 3),
    }


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    rows = [
        [
            f"calls, {row['kind']}",
            f"{row['off_per_s']:.0f}",
            f"{row['on_per_s']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['off_cpu_ms']:.2f} / {row['on_cpu_ms']:.2f} ms",
            f"{row['cpu_ratio']:.2f}",
        ]
        for row in report["rows"]
    ]
    said = (
        f"{report['jobs']} calls per side and round, {report['rounds']} rounds, {report['concurrency']} clients on the same "
        "cores, simulated engine, medians. Off is without keys, on is with one."
    )
    header = ["", "off, jobs/s", "on, jobs/s", "ratio", "CPU per job, off / on", "ratio"]
    return {"encryption": f"{wrap(said)}\n\n{table(header, rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs", type=int, default=1500, help="calls per side and round (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=6, help="rounds (default %(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="clients at once (default %(default)s)")
    args = parser.parse_args()
    key = f"k1:{base64.b64encode(os.urandom(32)).decode()}"
    with ExitStack() as up:
        bases = {
            "off": up.enter_context(penstock_up("--engine=simulated")),
            "on": up.enter_context(penstock_up("--engine=simulated", PENSTOCK_ENCRYPTION_KEYS=key)),
        }
        seen = uvloop.run(measure(bases, args.jobs, args.concurrency, args.rounds))
    report = {
        "benchmark": "encryption",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "jobs": args.jobs,
        "rounds": args.rounds,
        "concurrency": args.concurrency,
        "rows": [summary(kind, seen) for kind in KINDS],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
