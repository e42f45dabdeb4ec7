"""A conversation as OpenAI shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def conversation_view(conversation_id: str, created_ms: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the conversation object."""
    return {
        "id": conversation_id,
        "object": "conversation",
        "created_at": created_ms // 1000,
        "metadata": dict(metadata),
    }
