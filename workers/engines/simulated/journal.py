"""The simulated engine's journal of runs, for fault tests: it survives the process, however that ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from workers.engines.base import EngineRequest

_encode = msgspec.json.Encoder().encode


class Journal:
    """A file of JSON lines, each written in one call, so that several processes can share it.

    Args:
        path: the file; None: nothing is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: int | None = None

    def open(self) -> None:
        """Open the file, for appending."""
        if self._path is not None and self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, request: EngineRequest, event: str) -> None:
        """Note that something happened to a request: ``start``, ``end`` or ``abort``."""
        if self._file is None:
            return
        line = {
            "job": request.id,
            "attempt": request.attempt,
            "event": event,
            "time_ms": time.time_ns() // 1_000_000,
            "pid": os.getpid(),
        }
        os.write(self._file, _encode(line) + b"\n")

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
