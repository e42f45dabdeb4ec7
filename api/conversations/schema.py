"""The bodies of the Conversations API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.admission.schema import LooseList
from api.admission.stored import Metadata
from api.conversations.items import MOST_ITEMS

Items = Annotated[LooseList[dict[str, Any]], Field(max_length=MOST_ITEMS)]

EXAMPLE: dict[str, Any] = {"items": [{"type": "message", "role": "user", "content": "My name is Ada."}]}


class ConversationRequest(BaseModel):
    """Body of ``POST /v1/conversations``."""

    model_config = ConfigDict(extra="forbid")

    items: Items | None = Field(None, description="What it begins with: input items of `/v1/responses`.")
    metadata: Metadata | None = Field(None, description="Up to 16 pairs of your own.")


class ConversationChange(BaseModel):
    """Body of ``POST /v1/conversations/{conversation_id}``."""

    model_config = ConfigDict(extra="forbid")

    metadata: Metadata | None = Field(description="Up to 16 pairs of your own, in place of the old ones.")


class ItemsRequest(BaseModel):
    """Body of ``POST /v1/conversations/{conversation_id}/items``."""

    model_config = ConfigDict(extra="forbid")

    items: Annotated[Items, Field(min_length=1)] = Field(description="Input items of `/v1/responses`.")


class ConversationObject(BaseModel):
    """A conversation."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ConversationDeleted(BaseModel):
    """Answer to a deletion."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: bool
