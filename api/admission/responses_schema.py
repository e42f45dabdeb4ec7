"""The types of a body of ``/v1/responses``; see :mod:`api.admission.schema` for the rules."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.admission.schema import MAX_MESSAGES, MAX_TOOLS, Loose, LooseList


class ResponsesRequest(Loose):
    """Body of ``POST /v1/responses``."""

    model: str | None = Field(None, description="A served model; see GET /v1/models.")
    stream: bool | None = Field(None, description="Answer with Server-Sent Events while it generates.")
    input: str | Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_MESSAGES)] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    tools: Annotated[LooseList[dict[str, Any]], Field(max_length=MAX_TOOLS)] | None = None
    background: bool | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    user: str | None = None
