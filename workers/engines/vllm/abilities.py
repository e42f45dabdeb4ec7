"""What vLLM's model can do, by its configuration: the record that the worker registers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jobs.capabilities import Capabilities
from workers.engines.vllm.adapters import most_at_once


def capabilities(config: Any, args: Any, tasks: Collection[str]) -> Capabilities:
    """Return the capabilities of the base model.

    Args:
        config: vLLM's configuration, ``VllmConfig``.
        args: its parsed flags.
        tasks: those that its engine supports.
    """
    model, speculative = config.model_config, config.speculative_config
    generates = "generate" in tasks
    return Capabilities(
        tasks=tuple(sorted(tasks)),
        images=most(model, "image"),
        audios=most(model, "audio"),
        videos=most(model, "video"),
        adapters=most_at_once(config),
        adapter_rank=config.lora_config and config.lora_config.max_lora_rank,
        structured_output=generates,
        tool_parser=args.tool_call_parser if args.enable_auto_tool_choice else _own_parser(model),
        reasoning_parser=args.structured_outputs_config.reasoning_parser or None,
        quantization=model.quantization,
        speculation=None if speculative is None else speculative.method,
    )


def _own_parser(model: Any) -> str | None:
    """Return what reads tool calls although no flag names a parser: the form of conversations itself. None: nothing."""
    if model.hf_config.model_type == "gpt_oss":
        return "harmony"
    return "mistral" if model.tokenizer_mode == "mistral" else None


def most(model: Any, kind: str) -> int:
    """Return how many images, clips (``audio``) or videos a request may have."""
    return int(model.multimodal_config.get_limit_per_prompt(kind)) if model.is_multimodal_model else 0
