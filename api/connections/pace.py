"""Whether a client sends or reads fast enough. No I/O but a look at a socket's queue; ``now`` is an argument."""

from __future__ import annotations

import array
import fcntl
import termios
from typing import Protocol


class Reading:
    """A body that comes from a client.

    Args:
        timeout_s: longest pause.
        min_bytes_per_s: slowest rate over the whole body, after a first ``timeout_s``.
    """

    def __init__(self, timeout_s: float, min_bytes_per_s: int) -> None:
        self._timeout_s = timeout_s
        self._rate = min_bytes_per_s
        self._began = self._last = 0.0
        self._size = 0

    def begin(self, now: float) -> None:
        """Begin a body."""
        self._began = self._last = now
        self._size = 0

    def took(self, size: int, now: float) -> None:
        """Note a piece."""
        self._last = now
        self._size += size

    def pause(self, seconds: float) -> None:
        """Leave out a time in which the client could not send."""
        self._began += seconds
        self._last += seconds

    def late(self, now: float) -> bool:
        """Return whether the client is too slow."""
        return (
            now - self._last > self._timeout_s
            or now - self._began > self._timeout_s + self._size / self._rate
        )


class Waiting(Protocol):
    """What is asked of a transport."""

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the kernel has not taken."""
        ...

    def get_extra_info(self, name: str) -> object:
        """Return the ``socket``."""
        ...


class Writing:
    """Answers that a client reads.

    Args:
        timeout_s: longest pause.
        min_bytes_per_s: slowest rate while bytes wait, after a first ``timeout_s``.
    """

    def __init__(self, timeout_s: float, min_bytes_per_s: int) -> None:
        self._timeout_s = timeout_s
        self._rate = min_bytes_per_s
        self._began = self._last = 0.0
        self._left: int | None = None
        self._read = 0

    @property
    def waits(self) -> bool:
        """Whether bytes waited at the last look."""
        return self._left is not None

    def rest(self) -> None:
        """Begin anew at the next look: the client took enough."""
        self._left = None

    def late(self, transport: Waiting, now: float) -> bool:
        """Look at what waits, and return whether the client is too slow. Call it every second while bytes wait.

        Whoever writes between two looks calls :meth:`rest`.
        """
        if not transport.get_write_buffer_size():
            self._left = None
            return False
        left = transport.get_write_buffer_size() + _unacknowledged(transport)
        if self._left is None:
            self._began = self._last = now
            self._read = 0
        elif left < self._left:
            self._read += self._left - left
            self._last = now
        self._left = left
        return (
            now - self._last > self._timeout_s
            or now - self._began > self._timeout_s + self._read / self._rate
        )


def _unacknowledged(transport: Waiting) -> int:
    """Return the bytes in the kernel that the client has not acknowledged.

    A slow client frees the kernel's buffer, which may have megabytes, long before the transport notices.
    """
    sock = transport.get_extra_info("socket")
    waiting = array.array("i", [0])
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, waiting)  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        return 0  # not on this system, or closed
    return waiting[0]
