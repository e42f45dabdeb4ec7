"""The engine that ``gpu`` measures: a real one on a GPU, or a paced one in its place."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _paced

from workers.devices.tiny_models import SERVED_NAME, build_tiny_model


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine, in the words of each of those that start it.

    Attributes:
        model: its folder.
        name: under which it is served.
        options: of ``penstock up``.
        flags: of vLLM's own server and of ``run_batch``.
        llm: arguments of ``vllm.LLM``.
        fit: options of ``penstock bench fit``.
        shared: further flags of an engine that shares the device with another.
    """

    model: Path
    name: str
    options: Sequence[str]
    flags: Sequence[str]
    llm: dict[str, Any]
    fit: Sequence[str]
    shared: Sequence[str] = ()


def stand_in(model: Path, pace: str, slots: int) -> Engine:
    """Return a paced engine."""
    return Engine(
        model,
        _paced.served(pace),
        _paced.options(pace, slots),
        _paced.vllm_flags(pace, slots),
        _paced.llm_arguments(model, pace, slots),
        [f"--paced={pace}", f"--concurrency={slots}"],
    )


def on_gpu(folder: Path, args: argparse.Namespace) -> Engine:
    """Return an engine on the GPU, with a model of random weights."""
    model = build_tiny_model(folder, args.size)
    kv_bytes = args.kv_gib << 30
    settings = ["--dtype=bfloat16", f"--kv-cache-memory-bytes={kv_bytes}", *args.engine_arg]
    ours = [f"--engine-arg={flag}" for flag in (f"--served-model-name={SERVED_NAME}", *settings)]
    start = [f"--model={model}", f"--concurrency={args.slots}"]
    return Engine(
        model,
        SERVED_NAME,
        ["--engine=vllm", *start, *ours],
        [f"--served-model-name={SERVED_NAME}", f"--max-num-seqs={args.slots}", *settings],
        {
            "model": str(model),
            "dtype": "bfloat16",
            "max_num_seqs": args.slots,
            "kv_cache_memory_bytes": kv_bytes,
        },
        [*start, *ours],
        # As much must be free at the start, though the KV cache has its own size.
        ["--gpu-memory-utilization=0.45"],
    )
