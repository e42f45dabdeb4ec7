"""Errors in Anthropic's shape for the endpoints of its API, ours and the engine's alike, and the id of each request."""

from __future__ import annotations

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.request_ids import request_id_of
from jobs.anthropic import error_body
from jobs.endpoints import COUNT_TOKENS, MESSAGES

PATHS = frozenset({MESSAGES, COUNT_TOKENS})

_QUOTED = 500


class _Error(msgspec.Struct):
    message: str


class _Body(msgspec.Struct):
    error: _Error


_read = msgspec.json.Decoder(_Body).decode


class AnthropicErrors:
    """Rewrites the errors of whatever answers at these paths, middlewares too (plain ASGI)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Rewriter(send, request_id_of(scope)))


class _Rewriter:
    """Sends an answer; of an error it waits for the whole body."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send, self._request_id = send, request_id
        self._start: Message | None = None
        self._parts: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"request-id", self._request_id.encode())]
            message = {**message, "headers": headers}
            if message["status"] >= 400:
                self._start = message
                return
        elif self._start is not None:
            self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._finish(self._start)
            return
        await self._send(message)

    async def _finish(self, start: Message) -> None:
        status, given = start["status"], b"".join(self._parts)
        body = error_body(status, _words(given), self._request_id)
        kept = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await self._send({**start, "headers": [*kept, (b"content-length", b"%d" % len(body))]})
        await self._send({"type": "http.response.body", "body": body})


def _words(body: bytes) -> str:
    """Return the message of an error in OpenAI's shape, or in Anthropic's already."""
    try:
        return _read(body).error.message
    except msgspec.DecodeError:
        return body[:_QUOTED].decode(errors="replace")
