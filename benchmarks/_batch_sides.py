"""The sides that a batch is compared with: ``LLM.chat``, vLLM's own ``run_batch``, and a batch without its own settings."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _batch_rows
from _batch_run import run_batch
from _offline import generate_s, run_batch_s
from _stack import penstock_up

PLAIN = {"PENSTOCK_BATCH_PREFIX_ORDER": "false", "PENSTOCK_BATCH_ANSWER_IDENTICAL_ONCE": "false"}
"""Rows run in the order of the file, each by itself."""


class Sides:
    """The sides, on the same rows with the same engine.

    Args:
        folder: for the files.
        rows: prompts and tokens.
        model: the name that is served.
        llm: the arguments of ``vllm.LLM``.
        flags: the same for ``run_batch``.
        options: the same for ``penstock up``.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[tuple[str, int]],
        model: str,
        llm: dict[str, Any],
        flags: Sequence[str],
        options: Sequence[str],
    ) -> None:
        self._rows = len(rows)
        self._llm, self._flags, self._options = llm, flags, options
        self._data, self._warm = folder / "in.jsonl", folder / "warm.jsonl"
        _batch_rows.write(self._data, model, rows)
        _batch_rows.write(self._warm, model, _batch_rows.plain(16, seed=2))

    def compare(self, names: Sequence[str], rounds: int) -> dict[str, Any]:
        """Time the sides in rounds, in the other order every other round; the last is what the others are compared with.

        Returns:
            For each side its rows per second by round, and their median.
        """
        known: dict[str, Callable[[], float]] = {
            "generate": self.generate,
            "run_batch": self.own,
            "plain": lambda: self.ours(**PLAIN),
            "penstock": self.ours,
        }
        rates: dict[str, list[float]] = {name: [] for name in names}
        for round_ in range(rounds):
            for name in names if round_ % 2 == 0 else reversed(names):
                rates[name].append(round(self._rows / known[name](), 2))
                print(f"batch: {name}: {rates[name][-1]} rows/s", file=sys.stderr, flush=True)
        ours = rates["penstock"]
        return {
            "rows": self._rows,
            "rounds": rounds,
            "sides": {
                name: {
                    "rows_per_s": statistics.median(measured),
                    "ratios": [round(one / other, 3) for one, other in zip(ours, measured, strict=True)],
                }
                for name, measured in rates.items()
            },
        }

    def generate(self) -> float:
        """Return the seconds of ``LLM.chat``, the engine being up and warm."""
        bodies, warm = (
            [json.loads(line)["body"] for line in data.read_text().splitlines()]
            for data in (self._data, self._warm)
        )
        return generate_s(bodies, self._llm, warm)

    def own(self) -> float:
        """Return the seconds of ``run_batch``, the engine being up and warm."""
        return run_batch_s(self._data, self._flags, self._warm)

    def ours(self, **env: str) -> float:
        """Return the seconds of a batch, the server being up and warm."""
        with penstock_up(*self._options, timeout_s=400, PENSTOCK_BULK_RESERVE="0", **env) as (host, port):
            url = f"http://{host}:{port}"
            run_batch(url, self._warm)
            return float(run_batch(url, self._data)["seconds"])
