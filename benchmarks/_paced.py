"""The paced engine for benchmarks: vLLM's front, core and scheduler, and a cost model in the place of the model.

A step takes ``a + b x decodes + c x prompt tokens``, so two cores show what a GPU would, and repeat within a few per cent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _calls import Call

from workers.devices.tiny_models import build_tiny_model
from workers.engines.vllm import pacing
from workers.engines.vllm.step_cost import StepCost, label, parse

SLOTS = 256
CONTEXT = 8192


def options(pace: str, slots: int = SLOTS) -> list[str]:
    """Return the options of ``penstock up`` for a pace (``H100-8B``, or three numbers in milliseconds)."""
    return [f"--paced={pace}", f"--concurrency={slots}"]


def served(pace: str) -> str:
    """Return the model's name at this pace."""
    return label(pace)


def build(folder: Path) -> Path:
    """Return the model whose tokenizer and shapes a paced engine takes; it has no use for the weights."""
    return build_tiny_model(folder, "paced")


def vllm_flags(pace: str, slots: int = SLOTS) -> list[str]:
    """Return the flags of vLLM's own server and of ``run_batch`` for the same engine."""
    ours = [f"--max-num-seqs={slots}", f"--max-model-len={CONTEXT}", "--enforce-eager"]
    return [f"--served-model-name={served(pace)}", *ours, *pacing.flags(parse(pace))]


def llm_arguments(model: Path, pace: str, slots: int = SLOTS) -> dict[str, Any]:
    """Return the arguments of ``vllm.LLM`` for the same engine, written as its flags are."""
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in pacing.flags(parse(pace)))
    return {
        "model": str(model),
        "max_num_seqs": slots,
        "max_model_len": CONTEXT,
        "enforce_eager": True,
        "max_num_batched_tokens": int(flags["max-num-batched-tokens"]),
        "distributed_executor_backend": flags["distributed-executor-backend"],
        "additional_config": json.loads(flags["additional-config"]),
    }


def device_share(cost: StepCost, calls: Sequence[Call], wall_s: float) -> float:
    """Return the part of the device's time that the calls' own tokens take beside bulk.

    They ride in steps that bulk needs anyway, so their price is ``c x prompt tokens + b x decodes``, without ``a``.
    """
    taken = sum(
        cost.per_prompt_token_s * one.prompt + cost.per_decode_s * (one.completion - 1) for one in calls
    )
    return taken / wall_s
