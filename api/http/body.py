"""Reading and parsing a request's body: UTF-8, and a JSON object. A body that the engine could not parse is refused here.

The job gets the bytes unchanged; the parsed object serves the checks only. If a key is repeated, the last one counts,
as in the engine.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.types import Message, Receive, Scope

from api.http.asgi import header
from api.http.errors import ApiError, invalid, validation_error
from api.http.hangup import ClientGoneError
from api.http.shape import check_shape
from jobs.floats import read_float
from jobs.known_fields import meant

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

CONTROL_BYTES = 128 * 1024
"""Largest body of a call that carries no prompt. The largest legitimate one, 1,000 job ids, has 40 kB."""

_objects = msgspec.json.Decoder(dict[str, Any], float_hook=read_float)
_raw_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_values = msgspec.json.Decoder(Any, float_hook=read_float)


def announced_bytes(scope: Scope) -> int:
    """Return the length of the body that the request announces; 0: it announces none."""
    length = header(scope, b"content-length") or b""
    return int(length) if length.isdigit() and len(length) < 19 else 0


class BodyReader:
    """Reads one body.

    Args:
        receive: the request's.
        limit: its most bytes.

    Attributes:
        complete: whether the whole body was read.
        size: the bytes that were read.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self.complete = False
        self.size = 0
        self._receive = receive
        self._limit = limit
        self._parts: list[bytes] = []
        self._ahead: asyncio.Future[Message] | None = None

    async def read(self, until: int) -> None:
        """Read until the body ends, or has more than ``until`` bytes.

        Raises:
            ApiError: 413, it is larger than the limit.
            ClientGoneError: the client hung up first.
        """
        while not self.complete and self.size <= until:
            ahead, self._ahead = self._ahead, None
            message = await (self._receive() if ahead is None else ahead)
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            self.complete = not message.get("more_body", False)
            self.size += len(part)
            if self.size > self._limit:
                self._parts.clear()
                raise too_large(self._limit)
            self._parts.append(part)

    async def listen_until(self, event: asyncio.Future[None]) -> None:
        """Wait for something, and receive one message meanwhile: a client that hangs up is noticed.

        Raises:
            ClientGoneError: it did.
        """
        if self._ahead is None:
            self._ahead = asyncio.ensure_future(self._receive())
        either: set[asyncio.Future[Any]] = {event, self._ahead}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._ahead.done() and self._ahead.result()["type"] == "http.disconnect":
            raise ClientGoneError
        await event

    def close(self) -> None:
        """End what :meth:`listen_until` began."""
        if self._ahead is not None:
            self._ahead.cancel()

    def take(self) -> bytes:
        """Return the bytes; the reader forgets them."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_control_body(scope: Scope, receive: Receive) -> bytes:
    """Read the body of a call that carries no prompt.

    Raises:
        ApiError: 413, it is larger than :data:`CONTROL_BYTES`; 400, it nests too deep.
        ClientGoneError: the client hung up first.
    """
    if announced_bytes(scope) > CONTROL_BYTES:
        raise too_large(CONTROL_BYTES)
    reader = BodyReader(receive, CONTROL_BYTES)
    await reader.read(CONTROL_BYTES)
    body = reader.take()
    check_shape(body, CONTROL_BYTES)
    return body


def control_body(model: type[M], *, optional: bool = False) -> Any:
    """Return FastAPI's dependency that reads a call's body as ``model``. FastAPI's own reading has no bound.

    Describe the body in ``openapi_extra`` with :func:`api.http.openapi.body_docs`. ``optional``: None without a body.
    """

    async def read(request: Request) -> M | None:
        body = await read_control_body(request.scope, request.receive)
        return None if optional and not body else validate(model, parse_object(body))

    return Depends(read)


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


def validate(model: type[M], fields: dict[str, Any]) -> M:
    """Check a parsed body that may have the model's fields only.

    pydantic makes an error of every unknown field, so the first one stops here. The model's lists stop at their first
    error (``fail_fast``), and its dicts are counted first.

    Raises:
        ApiError: 400, naming the first wrong field.
    """
    for name in fields:
        if name not in model.model_fields:
            known = meant(name[:64], model.model_fields)
            raise invalid(f"{name[:64]}: there is no such field{known}", name[:64])
    try:
        return model.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from None


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


def too_large(limit: int) -> ApiError:
    """Make the 413 for a body."""
    which = "the most that this call takes" if limit == CONTROL_BYTES else "setting max_body_bytes"
    return ApiError(
        413,
        f"the body is larger than {limit} bytes ({which}); send a smaller one",
        "body_too_large",
        headers={"connection": "close"},  # more of the body may follow
    )
