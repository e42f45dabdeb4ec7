"""A transport whose close lets the client read the answer first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LINGER_S = 5.0
"""How long a client that still sends is listened to after its answer."""


class LingeringTransport:
    """Wraps a transport for uvicorn, which closes it as soon as an answer is written.

    A socket that is closed with unread bytes in it resets the connection, and the client, which is still sending, never
    sees why it was refused. So :meth:`close` ends our side only, and reads and drops bytes for a moment
    (nginx: ``lingering_close``).

    Args:
        transport: the real one.
        unread: returns whether more of the request may come.
        closing: called when the close begins.
    """

    def __init__(
        self, transport: asyncio.Transport, unread: Callable[[], bool], closing: Callable[[], None]
    ) -> None:
        self.real = transport
        self.lingering = False
        self._unread = unread
        self._closing = closing
        self._timer: asyncio.TimerHandle | None = None
        # Bound, not wrapped: they are called for every piece of every stream.
        self.write: Callable[[bytes], None] = transport.write
        self.pause_reading: Callable[[], None] = transport.pause_reading
        self.resume_reading: Callable[[], None] = transport.resume_reading
        self.get_extra_info: Callable[..., Any] = transport.get_extra_info
        self.get_write_buffer_size: Callable[[], int] = transport.get_write_buffer_size
        self.abort: Callable[[], None] = transport.abort

    def is_closing(self) -> bool:
        """Return whether nothing more may be written."""
        return self.lingering or self.real.is_closing()

    def close(self) -> None:
        """Close at once, or after a moment in which the client can read the answer."""
        if self.real.is_closing():
            return
        if self.lingering or not self._unread():
            self.close_now()
            return
        self.lingering = True
        if self.real.can_write_eof():  # TLS has no half-closed connections
            self.real.write_eof()
        self.real.resume_reading()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.close_now)
        self._closing()

    def close_now(self) -> None:
        """Close as soon as everything is written."""
        self.forget()
        self.real.close()
        self._closing()

    def forget(self) -> None:
        """The connection is lost: stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
