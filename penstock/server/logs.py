"""The children's log files: opened for appending, quoted when a child fails, followed with ``--verbose``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_KEEP_BYTES = 16 * 1024 * 1024  # a larger log is set aside as *.log.1 when its process starts
_TAIL_BYTES = 64 * 1024
_WORDS = 5
_FOLLOW_EVERY_S = 0.2


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending; a large one is set aside first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _KEEP_BYTES:
        path.replace(path.with_suffix(path.suffix + ".1"))
    log = path.open("ab")
    log.seek(0, 2)
    return log


def last_words(path: Path, offset: int, prefix: str) -> list[str]:
    """Return what a process said last: its one clear message where it gave one, else the end of its output.

    Args:
        path: its log.
        offset: where its output begins, in bytes.
        prefix: how its clear message begins.
    """
    with path.open("rb") as log:
        size = log.seek(0, 2)
        log.seek(max(offset, size - _TAIL_BYTES))
        lines = [line.rstrip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith(prefix):
            first = lines[index].removeprefix(prefix).strip()
            more = [
                line for line in lines[index + 1 :] if line.startswith("  ")
            ]  # a message of several lines
            return [first, *more][: 2 * _WORDS]
    return lines[-_WORDS:]


async def follow(path: Path, name: str, emit: Callable[[str], None]) -> None:
    """Emit each line that is appended to a log from now on, with the name before it. Runs until cancelled."""
    offset = _size(path)
    rest = b""
    while True:
        await asyncio.sleep(_FOLLOW_EVERY_S)
        size = _size(path)
        if size < offset:  # the log was set aside and begun anew
            offset, rest = 0, b""
        if size == offset:
            continue
        fresh = _read(path, offset)
        offset += len(fresh)
        *lines, rest = (rest + fresh).split(b"\n")
        for line in lines:
            emit(f"[{name}] {line.decode(errors='replace')}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as log:
        log.seek(offset)
        return log.read()
