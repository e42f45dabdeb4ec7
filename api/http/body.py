"""Reading a request's body: bounded, UTF-8, and a JSON object. What the engine would choke on ends here.

The bytes themselves go into the job unchanged; the parsed object serves the checks only. Where a key is
repeated, the last one counts, here as in the engine.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Scope

from api.http.asgi import ClientGoneError, header
from api.http.errors import ApiError, invalid

T = TypeVar("T")

DISCARD_S = 2.0
"""How long the rest of a body that is too large is read for."""

_objects = msgspec.json.Decoder(dict[str, Any])
_raw_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_values = msgspec.json.Decoder(Any)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the whole body.

    Args:
        scope: the request.
        receive: its source.
        limit: most bytes that are taken.

    Raises:
        ApiError: 413, it is larger.
        ClientGoneError: the client hung up first.
    """
    told = header(scope, b"content-length")
    if told is not None and told.isdigit() and int(told) > limit:
        await _discard(receive, limit)
        raise _too_large(limit)
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(part)
        if size > limit:
            if more:
                await _discard(receive, limit)
            raise _too_large(limit)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _discard(receive: Receive, limit: int) -> None:
    """Read on for a moment without keeping anything.

    A connection that is closed with unread bytes is reset, and the client may never see why it was refused.
    """
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            more = True
            while more and size <= limit:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                size += len(message.get("body", b""))
                more = message.get("more_body", False)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object (RFC 8259: no NaN, no comments, no lone surrogates).

    Raises:
        ApiError: 400 ``invalid_encoding`` or ``invalid_json``.
    """
    return _parse(body, _objects)


def parse_raw(body: bytes) -> dict[str, msgspec.Raw]:
    """Parse the outer object only; each value stays as it was written.

    Raises:
        ApiError: as :func:`parse_object`.
    """
    return _parse(body, _raw_objects)


def parse_value(raw: msgspec.Raw) -> Any:
    """Parse a value of :func:`parse_raw`. Raises as :func:`parse_object`."""
    return _parse(raw, _values)


def _parse(body: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T]) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(bytes(body), error) from None


def _malformed(body: bytes, error: Exception) -> ApiError:
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return invalid(f"the body is not UTF-8: byte {wrong.start} cannot be read", code="invalid_encoding")
    if not body.strip():
        return invalid("the body is empty; it must be a JSON object", code="invalid_json")
    if isinstance(error, RecursionError):
        return invalid("the body is nested too deeply", code="invalid_json")
    if isinstance(error, msgspec.ValidationError):  # an array, say, or a number that no float can hold
        return invalid(f"the body must be a JSON object: {error}")
    return invalid(f"the body is not JSON: {error}", code="invalid_json")


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {limit} bytes",
        "body_too_large",
        headers={"connection": "close"},  # there may be more of it
    )
