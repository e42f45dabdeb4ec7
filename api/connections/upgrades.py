"""Requests that offer another protocol, such as the JDK's ``Upgrade: h2c``: the api stays with HTTP/1.1 (RFC 9110 7.8)."""

from __future__ import annotations

from collections.abc import Iterable

import httptools

from api.http.asgi import Header

_OFFERS = frozenset({b"upgrade", b"http2-settings"})
"""Headers of such a request, and tokens of its ``Connection``."""


def head_without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: Iterable[Header]) -> bytes:
    """Return a request's head again, without the offer.

    Args:
        parser: the one that read it.
        url: as it was sent.
        headers: names in lower case.
    """
    lines = [b"%b %b HTTP/%b\r\n" % (parser.get_method(), url, parser.get_http_version().encode())]
    for name, value in headers:
        kept = value
        if name == b"connection":
            kept = b",".join(token for token in value.split(b",") if token.strip().lower() not in _OFFERS)
        if name not in _OFFERS:
            lines.append(b"%b: %b\r\n" % (name, kept))
    return b"".join([*lines, b"\r\n"])
