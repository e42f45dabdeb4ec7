"""The body that the server gets in place of a request's own."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from jobs.endpoints import ENDPOINTS
from jobs.floats import read_float
from workers.engines.base import EngineRequest

_decode = msgspec.json.Decoder(float_hook=read_float).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Given:
    """What we add to a body: the priority, and the salt of a tenant; None: not."""

    priority: int | None
    salt_for: str | None


def prepare(request: EngineRequest) -> tuple[bytes, bool]:
    """Return the body to send, and whether the usage chunk must be kept from the client.

    Usage is always asked for with a stream of chunks: it must be exact, and only the server knows it. Events end with it.
    """
    raw, form = request.body, ENDPOINTS[request.endpoint].streams
    stream = request.stream and form is not None
    if not stream and b'"stream' not in raw:
        return raw, False
    try:
        body = _decode(raw)
    except msgspec.DecodeError:
        return raw, False  # the server says what is wrong with it
    if not isinstance(body, dict):
        return raw, False
    if not stream:
        if body.pop("stream", None):
            body.pop("stream_options", None)
        return _encode(body), False
    body["stream"] = True
    if form == "events":
        return _encode(body), False
    options = body.get("stream_options")
    asked = isinstance(options, dict) and bool(options.get("include_usage"))
    if not asked and (options is None or isinstance(options, dict)):
        body["stream_options"] = {**(options or {}), "include_usage": True}
    return _encode(body), not asked
