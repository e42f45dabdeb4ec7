"""The chunk that closes a stream of chunks: how it is known, and what it gets. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from api.http.job_end import usage_view
from broker.endings import Ending

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])

_CLOSING = re.compile(r'"finish_reason"\s*:\s*"|"choices"\s*:\s*\[\s*\]')
"""Found in a chunk that closes a stream (or, with several choices, one of them), and in no other: inside a
JSON string these quotes would be escaped."""


def closes(frame: str) -> bool:
    """Whether a chunk closes its stream, or one of its choices."""
    return _CLOSING.search(frame) is not None


def closing(frame: str, job_id: str, ending: Ending, shown: Mapping[str, Any]) -> str:
    """Add ``usage``, if it is missing, ``penstock`` and what the job shows to a chunk; other members keep their bytes."""
    members = _members.decode(frame)
    if bytes(members.get("usage", b"null")) == b"null":
        members["usage"] = msgspec.Raw(msgspec.json.encode(usage_view(ending.usage)))
    members["penstock"] = msgspec.Raw(msgspec.json.encode(_facts(job_id, ending)))
    return msgspec.json.encode(members | dict(shown)).decode()


def empty_like(frame: str) -> str:
    """Make a chunk without choices for a stream whose engine sent no closing chunk."""
    members = {k: v for k, v in _members.decode(frame).items() if k in {"id", "object", "created", "model"}}
    members["choices"] = msgspec.Raw(b"[]")
    return msgspec.json.encode(members).decode()


def _facts(job_id: str, ending: Ending) -> dict[str, Any]:
    """Return the ``penstock`` member of a stream's last chunk."""
    t = ending.timings
    return {
        "job_id": job_id,
        "queue_ms": t.queue_ms,
        "ttft_ms": None if t.first_token_ms is None else t.first_token_ms - t.queued_ms,
        "total_ms": t.total_ms,
        "tokens_per_s": t.tokens_per_s(ending.usage),
    }
