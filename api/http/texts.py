"""Answers that are plain text: a job's result is JSON in any case, so such a one is stored as a string of JSON."""

from __future__ import annotations

from typing import Final

import msgspec

from api.http.asgi import JSON_TYPE, Header

TEXT_TYPE: Final[Header] = (b"content-type", b"text/plain; charset=utf-8")

_read = msgspec.json.Decoder(str).decode


def shown_body(status: int, body: bytes) -> tuple[bytes, Header]:
    """Return the body of an answer as its client gets it, with the header of its type."""
    if status == 200 and body.startswith(b'"'):
        return _read(body).encode(), TEXT_TYPE
    return body, JSON_TYPE
