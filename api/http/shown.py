"""What an answer shows in place of the engine's own members: :attr:`jobs.model.JobSpec.shown`. Pure.

All other members keep their bytes, and so does a whole body of a job that shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""For an answer that is the engine's own."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_COMPLETED = msgspec.Raw(b'"completed"')


def with_shown(body: bytes, shown: Mapping[str, Any], finished_ms: int | None = None) -> bytes:
    """Put members into an answer, a JSON object: each in the place of the one with its name, or after the others.

    Args:
        finished_ms: when its job ended, which ``completed_at`` says of a completed one, if ``shown`` has that.
    """
    if not shown:
        return body
    members: dict[str, Any] = _members(body) | dict(shown)
    if finished_ms is not None and "completed_at" in shown and members.get("status") == _COMPLETED:
        members["completed_at"] = finished_ms // 1000
    return _encode(members)


def event_with_shown(event: str, shown: Mapping[str, Any], finished_ms: int | None = None) -> str:
    """Do the same for an event of a stream: its member ``response`` is the answer. An event without one does not change."""
    if not shown or '"response"' not in event:
        return event
    members = _members(event)
    response = members.get("response")
    if response is None or bytes(response)[:1] != b"{":
        return event
    members["response"] = msgspec.Raw(with_shown(bytes(response), shown, finished_ms))
    return _encode(members).decode()
