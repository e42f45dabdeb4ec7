"""What `penstock up` costs when nobody asks anything: CPU of every process, the api's memory.

Bars: under 3 % of one core apart from the engine's own processes, and an api process under 150 MB.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from typing import Any

import psutil
from _cpu import kind
from _stack import machine, penstock_up
from _tables import table

QUICK = ("--seconds=5", "--engine=simulated")
TABLES = ("idle",)


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's table."""
    cpu, memory = report["cpu_percent_of_one_core"], report["rss_mb"]
    apart = f"Apart from the engine: **{report['apart_from_engine']} %** of one core."
    said = f"`penstock up`, {report['seconds']:.0f} s. {apart}"
    rows = [[name, cpu[name], f"{memory[name]} MB"] for name in cpu]
    return {"idle": f"{said}\n\n{table(['process', 'CPU, % of one core', 'memory'], rows)}"}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long to watch (default %(default)s)")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "simulated"])
    args = parser.parse_args()
    with penstock_up(f"--engine={args.engine}", flower=True):
        time.sleep(15)  # what start-up set going must come to rest
        family = [p for p in psutil.Process().children(recursive=True) if p.is_running()]
        before = {p: sum(p.cpu_times()[:2]) for p in family}
        time.sleep(args.seconds)
        cpu: dict[str, float] = {}
        memory: dict[str, float] = {}
        for p, used in before.items():
            name = kind(p)
            cpu[name] = cpu.get(name, 0.0) + (sum(p.cpu_times()[:2]) - used) / args.seconds * 100
            memory[name] = memory.get(name, 0.0) + p.memory_info().rss / 1e6
    report = {
        "benchmark": "idle",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "seconds": args.seconds,
        "cpu_percent_of_one_core": {name: round(value, 2) for name, value in sorted(cpu.items())},
        "apart_from_engine": round(sum(v for name, v in cpu.items() if name != "engine"), 2),
        "rss_mb": {name: round(value) for name, value in sorted(memory.items())},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
