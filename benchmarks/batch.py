"""Batches: against ``LLM.chat`` and vLLM's own ``run_batch`` on the same rows; and many simulated rows, with memory.

The first takes the paced engine with the same settings on every side, one side after the other, in rounds. Bars: 0.97 of
``LLM.chat``, 1.0 of ``run_batch``. Penstock's time is from ``POST /v1/batches`` to ``completed``, validation and output file
included. Rows with shared prefixes, and rows that are there twice, are run with and without the settings that use that. The
last watches the resident memory of coordinator and worker and the bytes in Redis while the rows run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _batch_rows
import _paced
from _batch_scale import scale, scale_table
from _batch_sides import Sides
from _stack import machine
from _tables import table, wrap

QUICK = ("--rows=300", "--shared-rows=100", "--rounds=1", "--scale=2000")
TABLES = ("batch", "batch-shared", "batch-scale")
NAMES = {
    "generate": "`LLM.chat`",
    "run_batch": "vLLM's `run_batch`",
    "plain": "a batch, rows in the file's order, each by itself",
    "penstock": "a batch",
}
FEW_BLOCKS = 26_000
"""A KV cache that has room for the rows that run at once, and little more: 26,000 blocks of 16 tokens."""

SHARED: dict[str, tuple[Callable[[int, int], list[tuple[str, int]]], int | None]] = {
    "documents": (_batch_rows.documents, None),
    "documents, small cache": (_batch_rows.documents, FEW_BLOCKS),
    "repeated": (_batch_rows.repeated, None),
}


def compare(
    pace: str, rows: Sequence[tuple[str, int]], names: Sequence[str], rounds: int, blocks: int | None = None
) -> dict[str, Any]:
    """Time sides on the paced engine. ``blocks``: of the KV cache of our sides; None: plenty."""
    with tempfile.TemporaryDirectory(prefix="bb") as folder:
        model = _paced.build(Path(folder) / "models")
        flags = [f"--model={model}", *_paced.vllm_flags(pace)]
        llm, options = _paced.llm_arguments(model, pace), _paced.options(pace)
        if blocks is not None:
            options.append(f"--engine-arg=--num-gpu-blocks-override={blocks}")
        return Sides(Path(folder), rows, _paced.served(pace), llm, flags, options).compare(names, rounds)


def comparison(c: dict[str, Any], setup: str) -> str:
    """The table of sides; ``setup``: with what, for the sentence above it."""
    head = ["side", "rows/s, median", "a batch against it", "in each round"]
    rows = [
        [
            NAMES[name],
            one["rows_per_s"],
            f"{statistics.median(one['ratios']):.2f}",
            ", ".join(f"{ratio:.2f}" for ratio in one["ratios"]),
        ]
        for name, one in c["sides"].items()
        if name != "penstock"
    ]
    turns = f"{c['rounds']} rounds in turn" if c["rounds"] > 1 else "one after the other, once"
    ours = c["sides"]["penstock"]["rows_per_s"]
    said = f"{c['rows']:,} rows, {setup}, {turns}. A batch: {ours} rows/s."
    return f"{wrap(said)}\n\n{table(head, rows)}"


def shared_table(found: dict[str, Any], pace: str) -> str:
    """What rows with common parts gain by the settings that use them."""
    documents = f"{_batch_rows.QUESTIONS} questions to each document of {_batch_rows.DOCUMENT_WORDS:,} words"
    says = {
        "documents": documents,
        "documents, small cache": f"the same, with a KV cache of {FEW_BLOCKS:,} blocks",
        "repeated": f"{_batch_rows.REPEATED:.0%} of the rows repeat another",
    }
    rows = [
        [
            says[name],
            f"{one['rows']:,}",
            one["sides"]["plain"]["rows_per_s"],
            one["sides"]["penstock"]["rows_per_s"],
            f"{statistics.median(one['sides']['plain']['ratios']):.2f}",
        ]
        for name, one in found.items()
    ]
    said = f"Paced engine `{pace}`, in random order. Without: `batch_prefix_order` and `batch_answer_identical_once` off."
    return f"{wrap(said)}\n\n{table(['rows', 'count', 'without, rows/s', 'with', 'ratio'], rows)}"


def tables(report: dict[str, Any]) -> dict[str, str]:
    """The page's tables."""
    found = {}
    if "compare" in report:
        said = (
            f"paced engine `{report['pace']}`, {_paced.SLOTS} slots, all of them for bulk (`bulk_reserve` 0)"
        )
        found[TABLES[0]] = comparison(report["compare"], said)
    if "shared" in report:
        found[TABLES[1]] = shared_table(report["shared"], report["pace"])
    if "scale" in report:
        found[TABLES[2]] = scale_table(report["scale"])
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pace", default="H100-8B", help="of the engine (default %(default)s)")
    add("--rows", type=int, default=5000, help="against vLLM; 0: not (default %(default)s)")
    add("--shared-rows", type=int, default=5000, help="with common parts; 0: not (default %(default)s)")
    add("--scale", type=int, default=1_000_000, help="simulated rows; 0: none (default %(default)s)")
    add("--rounds", type=int, default=3, help="of the comparison with vLLM (default %(default)s)")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "benchmark": "batch",
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "pace": args.pace,
    }
    if args.rows:
        rows = _batch_rows.plain(args.rows, seed=1)
        report["compare"] = compare(args.pace, rows, ("generate", "run_batch", "penstock"), args.rounds)
    if args.shared_rows:
        report["shared"] = {
            name: compare(args.pace, make(args.shared_rows, 1), ("plain", "penstock"), 1, blocks)
            for name, (make, blocks) in SHARED.items()
        }
    if args.scale:
        report["scale"] = scale(args.scale)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
