"""A load client that costs little: raw asyncio sockets and httptools, keep-alive, one connection per client.

On a small machine the client shares the cores with what it measures, so both sides are always driven by this one.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httptools


@dataclass(slots=True)
class Reply:
    """One response. Times are seconds from the request's first byte.

    Attributes:
        status: HTTP status.
        body: all of it.
        headers: names in lower case.
        first_s: to the first byte of the body.
        total_s: to its end.
        chunks: body parts as they came, with the time of each.
        sent_at: when the first byte was written, by ``time.perf_counter``.
    """

    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    first_s: float = 0.0
    total_s: float = 0.0
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    sent_at: float = 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection to one server.

    Args:
        host: its address.
        port: its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._reply = Reply()
        self._done: asyncio.Future[Reply] | None = None
        self._start = 0.0

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Reply:
        """Send a request and wait for the whole response.

        Raises:
            ConnectionError: the server closed the connection.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            await loop.create_connection(lambda: self, self._host, self._port)
        self._reply = Reply()
        self._done = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        )
        self._start = self._reply.sent_at = time.perf_counter()
        assert self._transport is not None
        self._transport.write(head.encode() + body)
        return await self._done

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(str(exc or "closed by the server")))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reply.headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        now = time.perf_counter() - self._start
        if not self._reply.first_s:
            self._reply.first_s = now
        self._reply.chunks.append((now, data))

    def on_message_complete(self) -> None:
        reply = self._reply
        reply.status = self._parser.get_status_code()
        reply.total_s = time.perf_counter() - self._start
        reply.body = b"".join(data for _, data in reply.chunks)
        if self._done is not None and not self._done.done():
            self._done.set_result(reply)


@dataclass(frozen=True, slots=True)
class Load:
    """What a run of :func:`drive` saw, in seconds.

    Attributes:
        wall_s: from the first request to the last answer.
        replies: in the order in which they ended.
    """

    wall_s: float
    replies: list[Reply]

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.replies) / self.wall_s


async def drive(
    base: tuple[str, int], path: str, bodies: list[Any], concurrency: int, headers: str = ""
) -> Load:
    """Send every body once, ``concurrency`` at a time.

    Raises:
        RuntimeError: an answer was not 2xx.
    """
    pending = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in reversed(bodies)]
    replies: list[Reply] = []

    async def client() -> None:
        connection = Connection(*base)
        while pending:
            reply = await connection.request("POST", path, pending.pop(), headers)
            if reply.status >= 300:
                raise RuntimeError(f"{path} answered {reply.status}: {reply.body[:300]!r}")
            replies.append(reply)
        connection.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(min(concurrency, len(bodies)))))
    return Load(time.perf_counter() - start, replies)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of the values lie, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
