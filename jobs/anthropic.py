"""Anthropic's words for errors, for the endpoints that answer as its API does."""

from __future__ import annotations

from typing import Final

import msgspec

STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The HTTP status of each type of error in Anthropic's documentation."""

_TYPES = {status: name for name, status in STATUSES.items()} | {503: "overloaded_error"}

_encode = msgspec.json.Encoder().encode


def error_type(status: int) -> str:
    """Return the type of an error by its HTTP status."""
    return _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def error_body(status: int, message: str, request_id: str | None = None) -> bytes:
    """Return an error's body, which is also the JSON of the event that ends a stream. ``request_id``: None leaves it out."""
    named = {} if request_id is None else {"request_id": request_id}
    return _encode({"type": "error", "error": {"type": error_type(status), "message": message}, **named})
