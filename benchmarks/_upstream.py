"""An OpenAI-compatible server that answers at once, so that a proxy before it shows its own cost.

Raw asyncio and httptools on uvloop, one process. ``GET /v1/models`` names one model; ``POST /v1/chat/completions``
answers whole, or as a stream of ``TOKENS`` tokens if the body says ``"stream": true``. ``GET /served`` returns the number
of completions so far: it shows a proxy that answers from a cache.

    python benchmarks/_upstream.py PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httptools
import uvloop
from _stack import free_port, running, wait_http

MODEL = "upstream"
TOKENS = 8
_FACTS = {"id": "chatcmpl-upstream", "created": 1, "model": MODEL}
_USAGE = {"prompt_tokens": 9, "completion_tokens": TOKENS, "total_tokens": 9 + TOKENS}
_WORDS = [" water"] * TOKENS


def _response(content: bytes, kind: str = "application/json", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _json(value: Any) -> bytes:
    return _response(json.dumps(value, separators=(",", ":")).encode())


def _whole() -> bytes:
    message = {"role": "assistant", "content": "".join(_WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return _json(_FACTS | {"object": "chat.completion", "choices": [choice], "usage": _USAGE})


def _stream(*, usage: bool) -> bytes:
    def event(choices: list[Any], **more: Any) -> str:
        chunk = _FACTS | {"object": "chat.completion.chunk", "choices": choices} | more
        return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"

    def delta(said: dict[str, str], reason: str | None = None) -> str:
        return event([{"index": 0, "delta": said, "finish_reason": reason}])

    events = [delta({"role": "assistant", "content": ""}), *(delta({"content": word}) for word in _WORDS)]
    events.append(delta({}, "stop"))
    if usage:
        events.append(event([], usage=_USAGE))
    events.append("data: [DONE]\n\n")
    chunks = "".join(f"{len(one):x}\r\n{one}\r\n" for one in events) + "0\r\n\r\n"
    head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return (head + chunks).encode()


_MODELS = _json(
    {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "bench"}]}
)
_WHOLE = _whole()
_STREAMS = {usage: _stream(usage=usage) for usage in (False, True)}
_UNKNOWN = _response(b"{}", status="404 Not Found")


class _Served(asyncio.Protocol):
    """One connection."""

    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        self._path, self._body = b"", b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url, b""

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._transport.write(self._answer())

    def _answer(self) -> bytes:
        if self._path == b"/v1/models":
            return _MODELS
        if self._path == b"/served":
            return _json(_Served.count)
        if self._path != b"/v1/chat/completions":
            return _UNKNOWN
        _Served.count += 1
        asked = json.loads(self._body)
        if not asked.get("stream"):
            return _WHOLE
        return _STREAMS[bool((asked.get("stream_options") or {}).get("include_usage"))]


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Served, "127.0.0.1", port)
    await server.serve_forever()


@contextmanager
def upstream() -> Iterator[tuple[str, int]]:
    """Run it in a process of its own; yields (host, port)."""
    port = free_port()
    with running([sys.executable, __file__, str(port)]) as process:
        wait_http(f"http://127.0.0.1:{port}/v1/models", process, 30.0)
        yield "127.0.0.1", port


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
