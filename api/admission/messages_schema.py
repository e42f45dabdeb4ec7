"""The types of bodies of Anthropic's Messages; see :mod:`api.admission.schema` for the rules.

No narrower than vLLM's own (0.32, ``vllm/entrypoints/anthropic/protocol.py``).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.admission.schema import MAX_MESSAGES, MAX_PARTS, MAX_STOPS, MAX_TOOLS, Loose, LooseList

_Blocks = str | Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_PARTS)]


class AnthropicMessage(Loose):
    """One turn of a conversation."""

    role: str
    content: _Blocks


class _Prompt(Loose):
    model: str | None = Field(None, description="A served model or an alias; see GET /v1/models.")
    messages: Annotated[LooseList[AnthropicMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: _Blocks | None = Field(None, description="The system prompt.")
    tools: Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class MessagesRequest(_Prompt):
    """Body of ``POST /v1/messages``, Anthropic's Messages."""

    max_tokens: int = Field(description="The most tokens of the answer.")
    stream: bool | None = Field(None, description="Answer with Server-Sent Events while it generates.")
    stop_sequences: Annotated[LooseList[str], Field(max_length=MAX_STOPS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: dict[str, Any] | None = None


class CountTokensRequest(_Prompt):
    """Body of ``POST /v1/messages/count_tokens``, Anthropic's count of a prompt's tokens."""
