"""The parsers of tool calls and of reasoning that an engine starts with: named by flags or settings, or by the family."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import structlog

from workers.engines.base import EngineStartError
from workers.engines.settings import VllmSettings
from workers.engines.vllm.families import REASONING, TOOLS, Rule, fitting

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

AUTO, NONE = "auto", "none"
"""Values of the settings beside names: choose by the family, and have no parser."""


class _Kind(NamedTuple):
    """One kind of parser: its setting and what that says, the families, and vLLM's own parsers.

    Attributes:
        named: the parser that vLLM's flags name, ours or an operator's.
        plugin: a file of an operator's with parsers of their own.
    """

    setting: str
    wanted: str | None
    named: str | None
    plugin: str | None
    rules: tuple[Rule, ...]
    known: Collection[str]
    get: Callable[[str], Any]


def set_parsers(args: Any, settings: VllmSettings) -> None:
    """Name the parsers in vLLM's parsed flags, before its engine arguments are made from them. Logs what was chosen.

    Args:
        args: changed. A flag that is there already wins.
        settings: the engine's.

    Raises:
        EngineStartError: this vLLM has no parser of a name that a setting or a flag has.
    """
    if args.runner == "pooling":
        return
    tools, reasoning = _kinds(args, settings)
    chosen = {kind.setting: _named(kind) for kind in (tools, reasoning)}
    if AUTO not in chosen.values():
        return
    tokenizer = _tokenizer(args)
    facts: dict[str, str] = {}
    for kind in (tools, reasoning):
        if chosen[kind.setting] == AUTO:
            name, why = _by_family(kind, args, tokenizer)
            facts |= {kind.setting: name, f"{kind.setting}_why": why}
            if name != NONE and kind is tools:
                args.tool_call_parser, args.enable_auto_tool_choice = name, True
            elif name != NONE:
                args.reasoning_parser = name
    log.info("parsers_chosen", model=settings.model, **facts)


def _kinds(args: Any, settings: VllmSettings) -> tuple[_Kind, _Kind]:
    from vllm.reasoning import ReasoningParserManager as Reasoning
    from vllm.tool_parsers import ToolParserManager as Tools

    reasons = args.reasoning_parser or args.structured_outputs_config.reasoning_parser
    return (
        _Kind(
            *("tool_parser", settings.tool_call_parser, args.tool_call_parser, args.tool_parser_plugin),
            *(TOOLS, Tools.list_registered(), Tools.get_tool_parser),
        ),
        _Kind(
            *("reasoning_parser", settings.reasoning_parser, reasons, args.reasoning_parser_plugin),
            *(REASONING, Reasoning.list_registered(), Reasoning.get_reasoning_parser),
        ),
    )


def _named(kind: _Kind) -> str:
    """Return the parser that flags or settings name, or ``auto`` or ``none``."""
    if not kind.named:
        return kind.wanted or NONE
    if kind.named not in kind.known and not kind.plugin:
        known = ", ".join(kind.known)
        raise EngineStartError(
            f"this vLLM has no {kind.setting} {kind.named!r}: choose `auto`, `none` or one of {known}"
        )
    return kind.named


def _by_family(kind: _Kind, args: Any, tokenizer: Any) -> tuple[str, str]:
    """Return the parser for a model, or ``none``, and why."""
    model_type, template = _model_type(args), _template(args, tokenizer)
    if not template:
        return NONE, "the model has no chat template"
    rule = fitting(kind.rules, model_type, template)
    if rule is None:
        return NONE, f"no known family: type {model_type}, and no known marks in the chat template"
    if rule.parser not in kind.known:
        return NONE, f"{rule.family} needs {rule.parser}, which this vLLM does not have"
    try:
        kind.get(rule.parser)(tokenizer)
    except Exception as error:  # noqa: BLE001 - of any parser: it only means that this one does not fit
        return NONE, f"{rule.family} needs {rule.parser}, which this tokenizer does not fit: {error}"
    return rule.parser, f"{rule.family}, by the model's type and its chat template"


def _tokenizer(args: Any) -> Any:
    """Return the model's tokenizer; None: it has none that loads, and vLLM will say why."""
    from vllm.tokenizers import get_tokenizer

    try:
        return get_tokenizer(
            args.tokenizer or args.model,
            tokenizer_mode=args.tokenizer_mode,
            trust_remote_code=args.trust_remote_code,
            revision=args.tokenizer_revision or args.revision,
        )
    except Exception:  # noqa: BLE001 - vLLM's own start raises it again, with its own words
        return None


def _model_type(args: Any) -> str:
    from vllm.transformers_utils.repo_utils import get_hf_file_to_dict

    try:
        config = get_hf_file_to_dict("config.json", args.model, args.revision) or {}
    except (OSError, ValueError):
        config = {}
    return str(config.get("model_type") or "")


def _template(args: Any, tokenizer: Any) -> str:
    """Return the chat template: that of the flag, or the tokenizer's with tools."""
    from vllm.renderers.chat_utils import load_chat_template

    try:
        if args.chat_template:
            return str(load_chat_template(args.chat_template))
        own = getattr(tokenizer, "chat_template", None)
    except (OSError, ValueError):
        return ""
    if isinstance(own, dict):  # several, by their use
        own = own.get("tool_use") or own.get("default")
    return own if isinstance(own, str) else ""
