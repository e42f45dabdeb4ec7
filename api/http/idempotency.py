"""The header ``Idempotency-Key``: how it is read and documented."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from api.http.asgi import header
from api.http.errors import invalid
from api.http.openapi import parameter

NAME = "Idempotency-Key"
MAX_LENGTH = 255


def idempotency_key(scope: Scope) -> str | None:
    """Read a request's key; None: it has none.

    Raises:
        ApiError: 400, the key is empty or longer than :data:`MAX_LENGTH` characters.
    """
    value = header(scope, b"idempotency-key")
    if value is None:
        return None
    if not 1 <= len(value) <= MAX_LENGTH:
        raise invalid(f"{NAME} must have 1 to {MAX_LENGTH} characters, but has {len(value)}", NAME)
    return value.decode("latin-1")


def key_parameter(gives: str) -> dict[str, Any]:
    """Describe the header for OpenAPI. ``gives``: the kind of object that the request makes."""
    description = f"A repeated request with the same key and content gives the same {gives}."
    return parameter("header", NAME, description, minLength=1, maxLength=MAX_LENGTH)
