"""The names of end users, ``user`` and ``safety_identifier``: often mail addresses. No record has one in clear.

Anthropic's Messages name them as ``user_id`` in ``metadata``.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from api.http.body import parse_raw
from jobs.endpoints import MESSAGES

FIELDS = ("safety_identifier", "user")
"""Members of a body that name its end user. The first one that is given counts."""

NOTE = "safety_identifier"
"""The member of a job's metadata that has the digest."""

_ANTHROPICS = "user_id"
_MOST_NOTES = 16


def digest_of(key: bytes, tenant: str, name: str) -> str:
    """Return what stands for an end user: the same for each request of the tenant, and of no use without the key."""
    return hmac.digest(key, f"{tenant}\0{name}".encode(), hashlib.sha256).hex()[:32]


def hide_end_user(
    key: bytes, tenant: str, endpoint: str, request: dict[str, Any], body: bytes
) -> tuple[dict[str, Any], bytes]:
    """Put digests in the places of the names of the end user. A request without one stays as it is."""
    named: dict[str, Any] = {
        field: digest_of(key, tenant, name)
        for field in FIELDS
        if isinstance(name := request.get(field), str) and name
    }
    if name := _anthropics(endpoint, request):
        named["metadata"] = {**request["metadata"], _ANTHROPICS: digest_of(key, tenant, name)}
    if not named:
        return request, body
    return {**request, **named}, msgspec.json.encode({**parse_raw(body), **named})


def _anthropics(endpoint: str, request: Mapping[str, Any]) -> str | None:
    """Return the name that a request of Messages has in its ``metadata``."""
    given = request.get("metadata") if endpoint == MESSAGES else None
    name = given.get(_ANTHROPICS) if isinstance(given, dict) else None
    return name if isinstance(name, str) else None


def noted(metadata: Mapping[str, str], endpoint: str, request: Mapping[str, Any]) -> Mapping[str, str]:
    """Return a job's metadata with the end user's digest, if there is one and it has room.

    Args:
        request: as :func:`hide_end_user` returns it.
    """
    given = (request[field] for field in FIELDS if isinstance(request.get(field), str))
    name = next(given, None) or _anthropics(endpoint, request)
    if not name or NOTE in metadata or len(metadata) >= _MOST_NOTES:
        return metadata
    return {**metadata, NOTE: name}
