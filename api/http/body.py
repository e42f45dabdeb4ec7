"""Reading a request's body: bounded, UTF-8, and a JSON object. A body that the engine could not parse is refused here.

The job gets the bytes unchanged; the parsed object serves the checks only. If a key is repeated, the last one counts,
as in the engine.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Scope

from api.http.asgi import ClientGoneError, header
from api.http.errors import ApiError, invalid

T = TypeVar("T")

_objects = msgspec.json.Decoder(dict[str, Any])
_raw_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_values = msgspec.json.Decoder(Any)


def announced_bytes(scope: Scope) -> int:
    """Return the length of the body that the request announces; 0: it announces none."""
    length = header(scope, b"content-length") or b""
    return int(length) if length.isdigit() else 0


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the whole body.

    Raises:
        ApiError: 413, it is larger than ``limit`` bytes.
        ClientGoneError: the client hung up first.
    """
    if announced_bytes(scope) > limit:
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
            raise _too_large(limit)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object (RFC 8259: no NaN, no comments, no lone surrogates).

    Raises:
        ApiError: 400 ``invalid_encoding`` or ``invalid_json``.
    """
    return _parse(body, _objects)


def parse_raw(body: bytes) -> dict[str, msgspec.Raw]:
    """Parse the outer object only; each value keeps its bytes.

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
        return invalid(
            f"the body is not UTF-8: byte {wrong.start} is invalid; send JSON as UTF-8",
            code="invalid_encoding",
        )
    if not body.strip():
        return invalid("the body is empty; it must be a JSON object", code="invalid_json")
    if isinstance(error, RecursionError):
        return invalid("the body is nested too deeply to be parsed; flatten it", code="invalid_json")
    if isinstance(error, msgspec.ValidationError):  # for example an array, or a number beyond a float
        return invalid(f"the body must be a JSON object: {error}")
    return invalid(f"the body is not JSON: {error}", code="invalid_json")


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {limit} bytes (setting max_body_bytes); send a smaller one",
        "body_too_large",
        headers={"connection": "close"},  # more of the body may follow
    )
