"""Penstock on one GPU, with a model of seven billion weights: interactive calls under bulk, vLLM's server, a batch.

What interactive_under_bulk, overhead and batch measure on a CPU with small models, once more where the engine is as fast
as in earnest: on CUDA graphs, with 256 slots. The weights are random, so texts mean nothing and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import batch
import interactive_under_bulk
import overhead
import uvloop
from _stack import machine, penstock_up, vllm_server
from _tables import wrap

from workers.devices.nvml import device_of, look
from workers.devices.tiny_models import SERVED_NAME, build_tiny_model

QUICK = ("--seconds=5", "--rows=500", "--clients=64", "--rounds=1", "--latency-requests=10")
TABLES = ("gpu-interactive-under-bulk", "gpu-overhead", "gpu-batch")
PARTS = ("interactive", "overhead", "batch")


def unavailable() -> str | None:
    """Say why this cannot be measured here; None where it can."""
    return None if look() else "there is no NVIDIA GPU here"


def engine_flags(args: argparse.Namespace) -> list[str]:
    """The engine's settings, the same on every side."""
    return [
        f"--served-model-name={SERVED_NAME}",
        "--dtype=bfloat16",
        f"--max-num-seqs={args.slots}",
        f"--max-num-batched-tokens={args.step_tokens}",
        f"--kv-cache-memory-bytes={args.kv_gib << 30}",
        *args.engine_arg,
    ]


def options(model: Path, args: argparse.Namespace) -> list[str]:
    """The same for ``penstock up``."""
    ours = [f"--engine-arg={flag}" for flag in engine_flags(args)]
    return ["--engine=vllm", f"--model={model}", f"--concurrency={args.slots}", *ours]


def interactive(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Interactive calls alone, under bulk, without the lane controller, and in one FIFO queue."""
    given = {
        "engine": "vllm",
        "size": args.size,
        "name": SERVED_NAME,
        "concurrency": args.slots,
        "jobs": args.jobs,
        "tokens": 128,
        "rate": args.rate,
        "seconds": args.seconds,
        "words": 300,
        "settle": 5.0,
        "fifo_calls": 3,
    }
    with penstock_up(*options(model, args), timeout_s=400) as base:
        found = uvloop.run(interactive_under_bulk.measure(base, argparse.Namespace(**given)))
    return {"settings": given, **found}


def beside(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Penstock and vLLM's server on the one GPU, asked in turn."""
    half = "--gpu-memory-utilization=0.45"  # as much must be free at the start, though the KV cache has its own size
    with (
        penstock_up(*options(model, args), f"--engine-arg={half}", timeout_s=400) as ours,
        vllm_server(model, *engine_flags(args), half, timeout_s=400) as theirs,
    ):
        given = argparse.Namespace(
            latency_requests=args.latency_requests,
            concurrency=args.clients,
            scale=args.scale,
            rounds=args.rounds,
        )
        return uvloop.run(overhead.both({"penstock": ours, "vllm": theirs}, SERVED_NAME, given))


def rows(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A batch, ``LLM.generate`` and ``run_batch``, one after the other."""
    flags = [f"--model={model}", *engine_flags(args)]
    llm = {
        "model": str(model),
        "dtype": "bfloat16",
        "max_num_seqs": args.slots,
        "max_num_batched_tokens": args.step_tokens,
        "kv_cache_memory_bytes": args.kv_gib << 30,
        "enforce_eager": "--enforce-eager" in args.engine_arg,
    }
    with tempfile.TemporaryDirectory(prefix="bb") as folder:
        return batch.Sides(Path(folder), args.rows, llm, flags, options(model, args)).compare(1)


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    found = {}
    if "interactive" in report:
        found[TABLES[0]] = interactive_under_bulk.comparison(report["interactive"])
    if "overhead" in report:
        found[TABLES[1]] = overhead.comparison(report["size"], report["overhead"])
    if "batch" in report:
        found[TABLES[2]] = batch.comparison(
            report["batch"], f"model `{report['size']}`, {report['slots']} slots, all of them for bulk"
        )
    said = f"On {report['device']}." if "device" in report else ""
    return {name: f"{wrap(said)}\n\n{text}" for name, text in found.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts (default: all)")
    parser.add_argument("--size", default="8b", help="of the model (default %(default)s)")
    parser.add_argument("--models", type=Path, help="keep the model in this folder, and find it there")
    parser.add_argument("--slots", type=int, default=256, help="requests at once (default %(default)s)")
    parser.add_argument(
        "--step-tokens", type=int, default=2048, help="in one step of the engine (default %(default)s)"
    )
    parser.add_argument(
        "--kv-gib", type=int, default=16, help="KV cache of each engine (default %(default)s)"
    )
    parser.add_argument(
        "--engine-arg", action="append", default=[], help="one more flag of vLLM's, repeatable"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of each spell (default %(default)s)")
    parser.add_argument("--rate", type=float, default=4.0, help="interactive calls per second (default 4)")
    parser.add_argument(
        "--jobs", type=int, default=8000, help="bulk jobs queued before a spell (default 8000)"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[64, 256], help="(default 64 256)")
    parser.add_argument("--scale", type=int, default=4, help="requests per client and round (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="sides in turn (default %(default)s)")
    parser.add_argument("--latency-requests", type=int, default=30)
    parser.add_argument("--rows", type=int, default=5000, help="of the batch (default %(default)s)")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "gpu",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "device": device_of(look()).name,
        "size": args.size,
        "slots": args.slots,
    }
    with tempfile.TemporaryDirectory(prefix="bench") as made:
        model = build_tiny_model(args.models or Path(made), args.size)
        for part, measured in zip(PARTS, (interactive, beside, rows), strict=True):
            if part in args.only:
                report[part] = measured(model, args)
                print(json.dumps({part: report[part]}), file=sys.stderr, flush=True)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
