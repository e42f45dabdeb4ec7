"""Sentences for errors of a start that vLLM tells in words of its own code. Imports no vLLM."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from workers.engines.base import EngineStartError


class Hint(NamedTuple):
    """What an error means, for whoever chose the model.

    Attributes:
        pattern: finds the error.
        sentence: what happened, why, and what to do; ``{0}`` is the pattern's first group.
    """

    pattern: re.Pattern[str]
    sentence: str


_OTHERS = (
    "Take a checkpoint in another format: on a CPU, AWQ and GPTQ with 4 bits, and compressed-tensors w8a8, w4a16, w4a8 and "
    "FP8 with a scale for each channel run; GPUs run more."
)
_HALF = "set --engine-arg=--dtype=bfloat16 (or float16)."

HINTS = (
    Hint(
        re.compile(r"torch\.float32 is not supported for quantization method (\w+)"),
        f"a checkpoint quantised with {{0}} does not run in float32: {_HALF}",
    ),
    Hint(
        re.compile(r"cpu_gemm_wna16\S* not implemented for '?Float"),
        f"a checkpoint with weights of 4 bits does not run in float32 on a CPU: {_HALF}",
    ),
    Hint(
        re.compile(r"activation ordering|desc_act=True"),
        "this GPTQ checkpoint orders weights by activation (desc_act), which this vLLM no longer runs. Take one without.",
    ),
    Hint(
        re.compile(
            r"Failed to find a kernel that can implement the (\w+) linear layer|Marlin does not support (weight_bits)"
            r"|_C::(\w*fp8\w*)\(\) expected at most 0"
        ),
        f"this vLLM has no code for the checkpoint's quantisation on this device ({{0}}). {_OTHERS}",
    ),
    Hint(
        re.compile(r"Unsupported CPU attention configuration: head_dim=(\d+)"),
        "this vLLM has no attention on a CPU for heads of size {0}. Take a model whose heads have 32, 64, 80, 96, 112, 128, "
        "160, 192, 224, 256 or 512, or a GPU.",
    ),
)
"""The first that fits counts."""


def hint(error: str) -> str | None:
    """Return a sentence for an error; None: its own words must do."""
    for one in HINTS:
        if (found := one.pattern.search(error)) is not None:
            group = next((part for part in found.groups() if part), "")
            return one.sentence.format(group)
    return None


def check_format(model: str) -> None:
    """Refuse a model in GGUF, which this vLLM does not read: it would say that the model has no configuration.

    Args:
        model: a folder, a file or a hub name.

    Raises:
        EngineStartError: the model is in this format.
    """
    folder = Path(model)
    lone = folder.is_dir() and not (folder / "config.json").exists() and any(folder.glob("*.gguf"))
    if lone or model.lower().endswith(("gguf", ".gguf")):
        raise EngineStartError(
            f"{model} is in GGUF, which this vLLM does not read: take a checkpoint of the model in safetensors (AWQ, GPTQ, "
            "FP8 and compressed-tensors are as small), or serve the file with llama.cpp and use --engine openai"
        )
