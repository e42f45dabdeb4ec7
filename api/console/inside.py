"""Calls of our own REST API inside this process: the pages have no other way to the data, and no other check of rights."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import msgspec
from starlette.types import ASGIApp, Message, Scope

from api.http.asgi import Header, header
from api.http.hangup import HANGUP, ClientGoneError

MOST_BYTES: Final = 8 * 1024 * 1024
"""Longest answer that is read; the pages ask for nothing longer unless they say how much of it they show."""

_KEPT: Final = ("asgi", "http_version", "scheme", "server", "client", "root_path", "state", HANGUP)
"""What a call inside has from the request that it is made for: its client is who audit and throttle see."""

_TOLD: Final = (b"host", b"user-agent", b"x-request-id")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered.

    Attributes:
        status: the HTTP status.
        body: its bytes.
        whole: whether these are all of them.
        headers: by name in lower case.
    """

    status: int
    body: bytes
    whole: bool
    headers: Mapping[str, str]

    def json(self) -> Any:
        """Return the body's value; None: it is not JSON, or it was cut."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return None


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    asker: Scope,
    credential: str | None,
    params: Mapping[str, Any] | None = None,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    most_bytes: int = MOST_BYTES,
) -> Answer:
    """Call the API.

    Args:
        app: the whole application, its middleware included.
        method: such as ``GET``.
        path: with ids already quoted, see :func:`segment`.
        asker: the request that it is made for.
        credential: an API key or a token; None: there is none.
        params: of the query; those that are None are left out.
        body: sent as JSON; None: no body.
        headers: further ones, by name in lower case.
        most_bytes: read no more of the answer.

    Raises:
        ClientGoneError: whoever the call is made for hung up.
    """
    content = b"" if body is None else msgspec.json.encode(body)
    more = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = _scope(method, path, params or {}, asker) | {
        "headers": [*_headers(asker, credential), *more, (b"content-length", b"%d" % len(content))]
    }
    if body is not None:
        scope["headers"].append((b"content-type", b"application/json"))
    reader = _Reader(content, most_bytes)
    # A task of its own, as every request: what is bound to its log lines ends with it.
    await asyncio.create_task(_run(app, scope, reader), name="console-ask")
    return reader.answer()


def segment(text: str) -> str:
    """Return a text as one segment of a path."""
    return quote(text, safe="")


async def _run(app: ASGIApp, scope: Scope, reader: _Reader) -> None:
    await app(scope, reader.receive, reader.send)


def _scope(method: str, path: str, params: Mapping[str, Any], asker: Scope) -> dict[str, Any]:
    query = urlencode({name: value for name, value in params.items() if value is not None})
    kept = {name: asker[name] for name in _KEPT if name in asker}
    return kept | {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
    }


def _headers(asker: Scope, credential: str | None) -> list[Header]:
    told = [(name, value) for name in _TOLD if (value := header(asker, name)) is not None]
    if credential is not None:
        told.append((b"authorization", b"Bearer " + credential.encode("latin-1")))
    return told


class _Reader:
    """Gives a request's body, and keeps its answer."""

    def __init__(self, body: bytes, most_bytes: int) -> None:
        self._body: bytes | None = body
        self._most = most_bytes
        self._status = 0
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = 0

    async def receive(self) -> Message:
        """Give the body, once."""
        if self._body is None:
            await asyncio.Event().wait()  # nobody hangs up here: the asker's connection says so
        body, self._body = self._body or b"", None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
            return
        part = message.get("body", b"")
        room = self._most - self._size
        if room > 0:
            self._parts.append(part[:room])
        self._size += len(part)

    def answer(self) -> Answer:
        """Return what came.

        Raises:
            ClientGoneError: nothing did.
        """
        if not self._status:
            raise ClientGoneError
        return Answer(self._status, b"".join(self._parts), self._size <= self._most, self._headers)
