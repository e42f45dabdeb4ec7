"""What vLLM's model can do, by its configuration: the record that the worker registers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import structlog

from jobs.capabilities import Capabilities
from workers.engines.vllm.adapters import most_at_once
from workers.engines.vllm.media import domains

log = structlog.get_logger(__name__)

_AROUND = 16
"""More than a chat template puts around an image."""


def capabilities(config: Any, args: Any, tasks: Collection[str], renderer: Any) -> Capabilities:
    """Return the capabilities of the base model. It may take seconds: a processor is asked for its largest image.

    Args:
        config: vLLM's configuration, ``VllmConfig``.
        args: its parsed flags.
        tasks: those that its engine supports.
        renderer: what reads its requests.
    """
    model, speculative = config.model_config, config.speculative_config
    generates = "generate" in tasks
    processor = getattr(renderer, "mm_processor", None)
    limits: Mapping[str, int] = {} if processor is None else processor.info.allowed_mm_limits
    return Capabilities(
        tasks=tuple(sorted(tasks)),
        images=limits.get("image", 0),
        image_tokens=_image_tokens(processor, model.max_model_len) if limits.get("image") else None,
        audios=limits.get("audio", 0),
        videos=limits.get("video", 0),
        media_domains=domains(model.allowed_media_domains) if limits else None,
        adapters=most_at_once(config),
        adapter_rank=config.lora_config and config.lora_config.max_lora_rank,
        structured_output=generates,
        tool_parser=args.tool_call_parser if args.enable_auto_tool_choice else _own_parser(model),
        reasoning_parser=args.structured_outputs_config.reasoning_parser or None,
        quantization=model.quantization,
        speculation=None if speculative is None else speculative.method,
    )


def _image_tokens(processor: Any, max_model_len: int) -> int | None:
    """Return the most tokens that an image takes, with those around it; None: this processor does not tell."""
    one = {"image": 1}
    try:
        said = processor.info.get_mm_max_tokens_per_item(seq_len=max_model_len, mm_counts=one)
        if said is not None:
            return int(said["image"]) + _AROUND
        places = processor.get_dummy_mm_inputs(one, cache=None)["mm_placeholders"]["image"]
        return sum(int(place.length) for place in places) + _AROUND
    except Exception:
        log.warning("image_tokens_unknown", exc_info=True)
        return None


def _own_parser(model: Any) -> str | None:
    """Return what reads tool calls although no flag names a parser: the form of conversations itself. None: nothing."""
    if model.hf_config.model_type == "gpt_oss":
        return "harmony"
    return "mistral" if model.tokenizer_mode == "mistral" else None
