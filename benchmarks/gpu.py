"""Penstock on one GPU: the pace of its engine, calls under bulk, vLLM's server, a batch; and what was predicted.

What ``interactive_under_bulk``, ``overhead`` and ``batch`` measure on the paced engine, once more on a GPU, with the
layers of an 8B Llama, CUDA graphs and 256 slots. The weights are random, so texts mean nothing and nothing is
downloaded. Then the same on the paced engine at the pace that was fitted. The parts on the GPU take about ten
minutes; with ``--only`` and ``--models`` they can be run one by one, and ``--predict REPORT`` adds the prediction to
a report later, on any machine.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _batch_rows
import _gpu_tables
import _paced
import overhead
import uvloop
from _batch_sides import Sides
from _calls import Arrivals
from _gpu_engines import Engine, on_gpu, stand_in
from _spells import Plan, Served, on_stack
from _stack import ROOT, machine, penstock_up, vllm_server

from penstock.server.guardian import die_with_parent
from workers.devices.nvml import device_of, look
from workers.engines.vllm.step_cost import parse

QUICK = ("--stand-in=H100-8B", "--calls=30", "--bulk-s=4", "--rows=300", "--clients=32", "--rounds=1")
STANDS_IN = True
PARTS = ("fit", "interactive", "overhead", "batch")
TABLES = _gpu_tables.TABLES
tables = _gpu_tables.tables


def unavailable() -> str | None:
    """Say why this cannot be measured here; None where it can."""
    return None if look() else "there is no NVIDIA GPU here"


def fit(engine: Engine) -> dict[str, Any]:
    """Return the pace of the engine, and the errors of the fit."""
    argv = [sys.executable, "-m", "penstock", "bench", "fit", "--json", *engine.fit]
    end = die_with_parent(signal.SIGTERM)
    done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True, preexec_fn=end)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def interactive(engine: Engine, args: argparse.Namespace, pace: str | None) -> dict[str, Any]:
    """Interactive calls alone and under bulk."""
    loads = {"15/s": Arrivals(15.0, args.calls)}
    plan = Plan(loads, ("equal", "lognormal"), args.bulk_s)
    cost = None if pace is None else parse(pace)
    return uvloop.run(on_stack(Served(engine.options, engine.name, cost, args.slots), plan, {}))


def beside(engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """Penstock and vLLM's server on the one device, asked in turn."""
    shared = [f"--engine-arg={flag}" for flag in engine.shared]
    with (
        penstock_up(*engine.options, *shared, timeout_s=400) as ours,
        vllm_server(engine.model, *engine.flags, *engine.shared, timeout_s=400) as theirs,
    ):
        given = argparse.Namespace(
            latency_requests=args.latency_requests,
            concurrency=args.clients,
            scale=args.scale,
            rounds=args.rounds,
        )
        return uvloop.run(overhead.both({"penstock": ours, "vllm": theirs}, engine.name, given))


def rows(engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    """A batch beside vLLM's own ``run_batch``, one after the other."""
    flags = [f"--model={engine.model}", *engine.flags]
    with tempfile.TemporaryDirectory(prefix="bb") as folder:
        made = _batch_rows.plain(args.rows, seed=1)
        sides = Sides(Path(folder), made, engine.name, engine.llm, flags, engine.options)
        return sides.compare(("run_batch", "penstock"), 1)


def measure(engine: Engine, args: argparse.Namespace, pace: str | None, parts: list[str]) -> dict[str, Any]:
    """Measure parts of it; ``pace``: the engine's, if it is known."""
    found: dict[str, Any] = {}

    def keep(part: str, result: dict[str, Any]) -> None:
        found[part] = result
        print(json.dumps({part: result}), file=sys.stderr, flush=True)

    if "fit" in parts:
        keep("fit", fit(engine))
        pace = found["fit"]["paced"]
    if "interactive" in parts:
        keep("interactive", interactive(engine, args, pace))
    if "overhead" in parts:
        keep("overhead", beside(engine, args))
    if "batch" in parts:
        keep("batch", rows(engine, args))
    return found


def predict(report: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return what the paced engine measures at the pace of a report, for its parts."""
    pace = report["measured"]["fit"]["paced"]
    with tempfile.TemporaryDirectory(prefix="bench") as cache:
        engine = stand_in(_paced.build(Path(cache)), pace, args.slots)
        parts = [part for part in report["measured"] if part != "fit"]
        return measure(engine, args, pace, parts)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts (default: all)")
    add("--predict", type=Path, metavar="REPORT", help="add the prediction to a report; needs no GPU")
    add("--no-predict", action="store_true", help="leave the prediction out")
    add("--stand-in", metavar="PACE", help="where there is no GPU, take a paced engine for one, to try this")
    add("--size", default="8b", help="of the model (default %(default)s)")
    add("--models", type=Path, help="keep the model in this folder, and find it there")
    add("--slots", type=int, default=_paced.SLOTS, help="requests at once (default %(default)s)")
    add("--kv-gib", type=int, default=16, help="KV cache of each engine (default %(default)s)")
    add("--engine-arg", action="append", default=[], help="one more flag of vLLM's, repeatable")
    add("--calls", type=int, default=300, help="interactive, 15 a second (default %(default)s)")
    add("--bulk-s", type=float, default=10.0, help="seconds of bulk alone (default %(default)s)")
    add("--clients", type=int, nargs="+", default=[256], help="beside vLLM's server (default 256)")
    add("--scale", type=int, default=4, help="requests per client and round (default 4)")
    add("--rounds", type=int, default=2, help="sides in turn (default %(default)s)")
    add("--latency-requests", type=int, default=0, help="one at a time (default %(default)s)")
    add("--rows", type=int, default=5000, help="of the batch (default %(default)s)")
    args = parser.parse_args()
    if args.predict:
        report = json.loads(args.predict.read_text())
    else:
        report = {
            "benchmark": "gpu",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "calls": args.calls,
        }
        with tempfile.TemporaryDirectory(prefix="bench") as made:
            folder = args.models or Path(made)
            if look() or not args.stand_in:
                report["device"], engine = device_of(look()).name, on_gpu(folder, args)
            else:
                report["device"] = f"a paced engine ({args.stand_in}) in a GPU's place"
                engine = stand_in(_paced.build(folder), args.stand_in, args.slots)
            report["measured"] = measure(engine, args, None, args.only)
    if "fit" in report["measured"] and not args.no_predict:
        report["predicted"] = predict(report, args)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
