"""A simulated day of bursts and a night: a fixed fleet, an HPA on CPU, and KEDA on the backlog, with and without deadlines.

Nothing runs but a model, second by second: jobs that arrive, wait and run; replicas that start, work and drain; and the
autoscalers' own rules. The HPA: every 15 s, ``ceil(replicas x metric / target)`` with a tolerance of 10 %, replicas that are
not ready count as idle when it would grow, policies and stabilisation windows as configured (Kubernetes, "Horizontal Pod
Autoscaling"). KEDA adds zero: it wakes a pool within its polling interval, and lets it sleep after the cooldown (KEDA,
"Scaling Deployments"). Windows and policies of KEDA are those of our chart; of the HPA on CPU, Kubernetes's defaults. The
deadlines' rule is the product's own, ``jobs/scaling.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from _fleet import CALL_S, SLOTS, Fleet, Seen, day
from _scalers import Cpu, Fixed, Keda, Scaler
from _stack import machine
from _tables import table, wrap

QUICK = ("--hours=4", "--starts=60")
TABLES = ("autoscale",)

MOST = 8
PATIENT = 8.0
"""Jobs for each slot, of a pool that may let jobs wait."""


@dataclass(frozen=True)
class Rule:
    """A way to choose the number of replicas.

    Attributes:
        name: for the table.
        fixed: the size of a fleet that does not scale.
        target: jobs for each slot, of a rule of KEDA's; ``deadlines``: with their signal; ``least``: replicas that stay.
    """

    name: str
    fixed: int | None = None
    target: float | None = None
    deadlines: bool = False
    least: int = 0

    def scaler(self, start_s: int) -> Scaler:
        """Return a fresh scaler. ``start_s``: how long a replica takes to be ready."""
        if self.fixed is not None:
            return Fixed(self.fixed)
        if self.target is None:
            return Cpu(MOST)
        return Keda(self.least, MOST, self.target, start_s if self.deadlines else None)


RULES = (
    Rule("fixed fleet of 8", fixed=MOST),
    Rule("fixed fleet of 4", fixed=4),
    Rule("HPA on CPU, 1 to 8"),
    Rule("KEDA, backlog, target 0.8", target=0.8),
    Rule("KEDA, backlog, target 0.8, 1 to 8", target=0.8, least=1),
    Rule("KEDA, backlog, target 8", target=PATIENT),
    Rule("KEDA, backlog, target 8, deadlines", target=PATIENT, deadlines=True),
)


def say(text: str) -> None:
    """Report progress."""
    print(f"autoscale: {text}", file=sys.stderr, flush=True)


def percentile(values: list[float], share: float) -> float | None:
    """Return a percentile of sorted values, infinite if it is of a call that never started; None: there is none."""
    return values[min(len(values) - 1, math.floor(share * len(values)))] if values else None


def figures(seen: Seen) -> dict[str, Any]:
    """Return what a day looked like."""
    waits = (
        sorted(seen.call_waits) + [math.inf] * seen.calls_late
    )  # the worst calls are those that never started
    return {
        "gpu_hours": round(seen.gpu_s / 3600, 1),
        "calls": len(waits),
        **{f"p{n}": _or_late(percentile(waits, n / 100)) for n in (50, 95, 99)},
        "calls_late": seen.calls_late,
        "batches": len(seen.batches),
        "batches_late": sum(done is None or done > due for due, done in seen.batches),
    }


def _or_late(wait: float | None) -> float | str | None:
    """Return a wait, or ``>120``: JSON has no infinity."""
    return f">{CALL_S}" if wait == math.inf else wait


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--starts", default="30,60,180", help="seconds that a replica takes to be ready")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began, rows = time.process_time(), []
    plan = day(args.hours, args.seed)
    for start_s in map(int, args.starts.split(",")):
        for rule in RULES:
            seen = Fleet(plan, rule.scaler(start_s), start_s).run()
            rows.append({"rule": rule.name, "start_s": start_s, **figures(seen)})
            say(f"{rule.name}, start {start_s} s: {rows[-1]}")
    report = {
        "benchmark": "autoscale",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "hours": args.hours,
        "slots": SLOTS,
        "rows": rows,
        "took_s": round(time.process_time() - began, 1),
    }
    print(json.dumps(report, indent=2))
    return 0


def tables(report: dict[str, Any]) -> dict[str, str]:
    """Return the table, by its name."""
    first = report["rows"][0]
    head = wrap(
        f"A simulated day of {report['hours']} h: {first['calls']:,} calls of 20 s, which wait 120 s at most, with bursts, "
        f"many by day and three an hour at night; {first['batches']} batches of 3,000 to 30,000 rows of 20 s, each due "
        f"within 2 to 8 hours. A replica has one GPU and {report['slots']} slots; there are {MOST} at most. GPU hours are "
        f"those of all replicas, starting and draining ones too. The simulation took {report['took_s']:.0f} s."
    )
    header = (
        *("rule", "start", "GPU hours", "calls' wait p50 / p95 / p99", "calls not started in 120 s"),
        "batches late",
    )
    shown = [
        (
            one["rule"],
            f"{one['start_s']} s",
            f"{one['gpu_hours']:.1f}",
            " / ".join("-" if one[name] is None else str(one[name]) for name in ("p50", "p95", "p99")) + " s",
            f"{one['calls_late']:,} ({one['calls_late'] / max(1, one['calls']):.2%})",
            f"{one['batches_late']} of {one['batches']}",
        )
        for one in report["rows"]
        if one["rule"] not in _FIXED or one["start_s"] == first["start_s"]
    ]
    return {"autoscale": head + "\n\n" + table(header, shown)}


_FIXED = {rule.name for rule in RULES if rule.fixed is not None}
"""Rules for which it makes no difference how long a start takes."""

if __name__ == "__main__":
    sys.exit(main())
