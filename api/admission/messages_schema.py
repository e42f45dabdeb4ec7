"""The types of bodies of Anthropic's Messages; see :mod:`api.admission.schema` for the rules."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.admission.schema import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, Loose, LooseList


class _Prompt(Loose):
    model: str | None = Field(None, description="A served model; see GET /v1/models.")
    messages: Annotated[LooseList[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: str | Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_PARTS)] | None = None
    tools: Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None


class MessagesRequest(_Prompt):
    """Body of ``POST /v1/messages``."""

    max_tokens: int | None = None
    stream: bool | None = Field(None, description="Answer with Server-Sent Events while it generates.")
    stop_sequences: Annotated[LooseList[str], Field(max_length=MAX_PARTS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


class CountTokensRequest(_Prompt):
    """Body of ``POST /v1/messages/count_tokens``."""
