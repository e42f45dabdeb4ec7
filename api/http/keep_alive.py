"""A stream that proxies do not cut: a comment whenever it was silent for a while, also before its first event."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from starlette.types import Send

from api.http.asgi import Header
from api.http.sse import PING


class KeptStream:
    """The sending side of one stream. While the block runs, silence is filled with comments.

    A write costs one look at a flag and at the clock, and no task.

    Args:
        head: the headers of the response.
        gap_s: longest silence.

    Attributes:
        begun: whether the head was sent. Until then the request may still be refused with a status.
    """

    def __init__(self, send: Send, head: Sequence[Header], gap_s: float) -> None:
        self.begun = False
        self._send, self._head, self._gap_s = send, head, gap_s
        self._loop = asyncio.get_running_loop()
        self._last_at = self._loop.time()
        self._writing = False
        self._pinging: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._gap_s, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._pinging is not None:
            self._pinging.cancel()

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send bytes, after the head if these are the first. ``more``: false for the last ones."""
        if self._pinging is not None:
            await asyncio.wait({self._pinging})
        self._writing = True
        if not self.begun:
            self.begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._head})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._writing = False
        self._last_at = self._loop.time()

    def _look(self) -> None:
        left_s = self._last_at + self._gap_s - self._loop.time()
        if left_s <= 0:
            left_s = self._gap_s
            if not self._writing and self._pinging is None:  # else its reader is slow, and has enough to read
                self._pinging = self._loop.create_task(self._ping(), name="ping")
        self._timer = self._loop.call_later(left_s, self._look)

    async def _ping(self) -> None:
        try:
            if not self.begun:
                self.begun = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._head})
            await self._send({"type": "http.response.body", "body": PING, "more_body": True})
            self._last_at = self._loop.time()
        finally:
            self._pinging = None
