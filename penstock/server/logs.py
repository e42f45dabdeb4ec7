"""The children's logs: each process writes into a pipe, and a thread of ours writes that into a file of bounded size."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PIPE_BYTES = 1024 * 1024
"""What a child may write before it waits for us, for example while we are stopped with Ctrl-Z; Linux's most for all."""

_READ_BYTES = 64 * 1024
_TAIL_BYTES = 64 * 1024
_WORDS = 5
_FOLLOW_EVERY_S = 0.2
_LINE_MAX = 2
"""A file without a line's end becomes this many times as long as others at most."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of a child's output is kept.

    Attributes:
        max_bytes: a file of this size is set aside as ``<name>.1``, and the former ``.1`` becomes ``.2``, and so on.
        backups: how many are set aside; older ones are deleted.
    """

    max_bytes: int = 16 * 1024 * 1024
    backups: int = 3


class LogFile:
    """A file that is set aside when it is full, between two lines. Threads may share it.

    Args:
        path: the file; earlier output in it is kept.
        limits: its size, and how many are set aside.
    """

    def __init__(self, path: Path, limits: LogLimits) -> None:
        self.path = path
        self._limits = limits
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._size = 0
        self._within_line = False

    def write(self, data: bytes) -> None:
        """Append data; none only opens the file.

        Raises:
            OSError: it cannot be written; part of it may have been.
        """
        with self._lock:
            self._opened()
            if self._size and self._size + len(data) > self._limits.max_bytes:
                head = data.find(b"\n") + 1 if self._within_line else 0
                if head or not self._within_line or self._size > _LINE_MAX * self._limits.max_bytes:
                    self._append(data[:head])
                    self._set_aside()
                    data = data[head:]
            self._append(data)

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        with self._lock:
            self._close()

    def _append(self, data: bytes) -> None:
        if not data:
            return
        rest = memoryview(data)
        while rest:
            written = self._opened().write(rest)
            self._size += written
            rest = rest[written:]
        self._within_line = not data.endswith(b"\n")

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            self._size = self._file.seek(0, os.SEEK_END)
        return self._file

    def _set_aside(self) -> None:
        self._close()
        if not self._limits.backups:
            self.path.unlink(missing_ok=True)  # somebody may have deleted it
            return
        for number in range(self._limits.backups, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._size, self._within_line = 0, False


class Recorder:
    """Writes what one process says into its log, until the process and its children have closed their end.

    Nothing is lost when the process is killed: what it wrote is in the pipe. A full disk stops no process: lines that
    cannot be written are dropped.

    Args:
        log: where it goes.
        complain: takes a sentence, in this object's thread, when the log cannot be written.
    """

    def __init__(self, log: LogFile, complain: Callable[[str], None]) -> None:
        self._log = log
        self._complain = complain
        self._tail = bytearray()
        self._read_fd, self.write_fd = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux
            with suppress(OSError):  # more than this user may have: the default will do
                fcntl.fcntl(self._read_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._thread = threading.Thread(target=self._run, name=f"log {log.path.name}", daemon=True)

    def start(self) -> None:
        """Begin. The process has inherited ``write_fd`` by now, or will never be."""
        os.close(self.write_fd)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether all that the process said is in the log."""
        return not self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait until :attr:`done`, for ``timeout_s`` seconds at most: a stray grandchild may hold the pipe open."""
        self._thread.join(timeout_s)

    def last_words(self, prefix: str) -> list[str]:
        """Return what the process said last: its one clear message if it gave one, else the end of its output.

        Args:
            prefix: how its clear message begins.
        """
        text = bytes(self._tail[-_TAIL_BYTES:]).decode(errors="replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        for index in range(len(lines) - 1, -1, -1):
            if lines[index].startswith(prefix):
                first = lines[index].removeprefix(prefix).strip()
                more = [
                    line for line in lines[index + 1 :] if line.startswith("  ")
                ]  # a message of several lines
                return [first, *more][: 2 * _WORDS]
        return lines[-_WORDS:]

    def _run(self) -> None:
        complained = False
        while data := os.read(self._read_fd, _READ_BYTES):
            self._tail += data
            if len(self._tail) > 2 * _TAIL_BYTES:
                del self._tail[:-_TAIL_BYTES]
            try:
                self._log.write(data)
                complained = False
            except OSError as error:
                self._log.close()
                if not complained:
                    self._complain(f"{self._log.path} cannot be written: {error.strerror}; lines are lost")
                complained = True
        os.close(self._read_fd)


async def follow(path: Path, name: str, emit: Callable[[str], None]) -> None:
    """Emit each line that is appended to a log from now on, with the name before it. Runs until cancelled."""
    rest = b""
    log = _open(path)
    try:
        if log is not None:
            log.seek(0, os.SEEK_END)
        while True:
            await asyncio.sleep(_FOLLOW_EVERY_S)
            set_aside = log is None or not _is_at(path, log)  # looked at first: nothing comes after that
            if log is not None:
                *lines, rest = (rest + log.read()).split(b"\n")
                for line in lines:
                    emit(f"[{name}] {line.decode(errors='replace')}")
            if set_aside:
                if log is not None:
                    log.close()
                log = _open(path)
    finally:
        if log is not None:
            log.close()


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
