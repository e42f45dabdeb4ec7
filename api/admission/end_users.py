"""The names of end users, often mail addresses: ``safety_identifier``, Anthropic's ``metadata.user_id``, and ``user``.

The first two are made for the operator of a service, so nobody gets them in clear. ``user`` goes to the engine as it came,
as an upstream server may know its users by it. A job notes a digest of each.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from api.http.body import parse_raw
from api.http.errors import invalid
from jobs.end_users import ANTHROPICS, SAFETY_IDENTIFIER, USER_ID

NOTE: Final = SAFETY_IDENTIFIER
"""The member of a job's metadata that has the digest."""

_USER = "user"
_MOST_NOTES = 16


def digest_of(key: bytes, tenant: str, name: str) -> str:
    """Return what stands for an end user: the same for each request of the tenant, and of no use without the key."""
    return hmac.digest(key, f"{tenant}\0{name}".encode(), hashlib.sha256).hex()[:32]


def hide_end_user(
    key: bytes, tenant: str, endpoint: str, request: dict[str, Any], body: bytes
) -> tuple[dict[str, Any], bytes]:
    """Put digests in the places of ``safety_identifier`` and ``user_id``. A request without them stays as it is.

    Raises:
        ApiError: 400, one of them is no string, and what it holds would be kept in clear.
    """
    named: dict[str, Any] = {}
    if name := _text(request.get(SAFETY_IDENTIFIER), SAFETY_IDENTIFIER):
        named[SAFETY_IDENTIFIER] = digest_of(key, tenant, name)
    if name := _anthropics(endpoint, request):
        named["metadata"] = {**request["metadata"], USER_ID: digest_of(key, tenant, name)}
    if not named:
        return request, body
    return {**request, **named}, msgspec.json.encode({**parse_raw(body), **named})


def _anthropics(endpoint: str, request: Mapping[str, Any]) -> str | None:
    """Return the name that a request of Messages has in its ``metadata``."""
    given = request.get("metadata") if endpoint in ANTHROPICS else None
    return _text(given.get(USER_ID), f"metadata.{USER_ID}") if isinstance(given, dict) else None


def _text(value: object, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise invalid(f"{field}: Input should be a valid string", field.partition(".")[0])


def noted(
    key: bytes, tenant: str, metadata: Mapping[str, str], endpoint: str, request: Mapping[str, Any]
) -> Mapping[str, str]:
    """Return a job's metadata with the end user's digest, if there is one and it has room.

    Args:
        request: as :func:`hide_end_user` returns it.
    """
    given, user = request.get(SAFETY_IDENTIFIER), request.get(_USER)
    digest = (given if isinstance(given, str) else None) or _anthropics(endpoint, request)
    if not digest and isinstance(user, str) and user:
        digest = digest_of(key, tenant, user)
    if not digest or NOTE in metadata or len(metadata) >= _MOST_NOTES:
        return metadata
    return {**metadata, NOTE: digest}
