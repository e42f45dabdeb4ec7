"""The names of end users, ``user`` and ``safety_identifier``: often mail addresses. No record has one in clear."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from api.http.body import parse_raw

FIELDS = ("safety_identifier", "user")
"""Members of a body that name its end user. The first one that is given counts."""

NOTE = "safety_identifier"
"""The member of a job's metadata that has the digest."""

_MOST_NOTES = 16


def digest_of(key: bytes, tenant: str, name: str) -> str:
    """Return what stands for an end user: the same for each request of the tenant, and of no use without the key."""
    return hmac.digest(key, f"{tenant}\0{name}".encode(), hashlib.sha256).hex()[:32]


def hide_end_user(
    key: bytes, tenant: str, request: dict[str, Any], body: bytes
) -> tuple[dict[str, Any], bytes]:
    """Put digests in the places of the names of the end user. A request without one stays as it is."""
    named = {
        field: digest_of(key, tenant, name)
        for field in FIELDS
        if isinstance(name := request.get(field), str) and name
    }
    if not named:
        return request, body
    return {**request, **named}, msgspec.json.encode({**parse_raw(body), **named})


def noted(metadata: Mapping[str, str], request: Mapping[str, Any]) -> Mapping[str, str]:
    """Return a job's metadata with the end user's digest, if there is one and it has room.

    Args:
        request: as :func:`hide_end_user` returns it.
    """
    name = next((request[field] for field in FIELDS if isinstance(request.get(field), str)), None)
    if not name or NOTE in metadata or len(metadata) >= _MOST_NOTES:
        return metadata
    return {**metadata, NOTE: name}
