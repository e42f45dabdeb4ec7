"""The bounds of a connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take. The settings of the same names describe each.

    Attributes:
        max_connections: open connections of this process.
        max_head_bytes: request line and headers of one request, and trailers.
        head_timeout_s: from the first byte of a request, or the start of the connection, to the end of the headers.
        read_timeout_s: longest pause of a client that sends a body.
        write_timeout_s: longest pause of a client that reads an answer.
        min_bytes_per_s: slowest rate, over the whole body or answer, at which a client may send or read.
    """

    max_connections: int
    max_head_bytes: int
    head_timeout_s: float
    read_timeout_s: float
    write_timeout_s: float
    min_bytes_per_s: int
