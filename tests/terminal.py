"""A terminal for tests: a command on a pty, typed at and read until it says something."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from select import select
from typing import Self

import psutil

from tests.support import wait_until

ROOT = Path(__file__).parents[1]
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


class Terminal:
    """``penstock`` on a terminal, until the block ends.

    Args:
        args: of the command.
        env: its environment beyond PATH and HOME.
        size: rows and columns.
    """

    def __init__(self, *args: str, env: Mapping[str, str], size: tuple[int, int] = (30, 120)) -> None:
        self._ours, theirs = pty.openpty()
        given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        rows, columns = size
        given |= {
            "TERM": "xterm",
            "LINES": str(rows),
            "COLUMNS": str(columns),
            "PYTHONPATH": str(ROOT),
            **env,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=given,
            preexec_fn=_own_terminal,  # noqa: PLW1509 - a few system calls
        )
        os.close(theirs)
        self.raw = ""
        self._read_to = 0

    @property
    def shown(self) -> str:
        """All that was shown, without the codes that steer the terminal."""
        return _CODES.sub("", self.raw)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def line(self, text: str) -> None:
        """Type a line."""
        self.type(text + "\n")

    def interrupt(self) -> None:
        """Press Ctrl-C once it waits: Python notices one that comes as readline begins to wait at the next key only."""
        process = psutil.Process(self.process.pid)
        wait_until(lambda: process.status() == psutil.STATUS_SLEEPING)
        self.type("\x03")

    def expect(self, text: str, timeout_s: float = 20.0) -> str:
        """Wait until something is shown that was not read yet; return what came up to its end."""
        deadline = time.monotonic() + timeout_s
        while (at := self.shown.find(text, self._read_to)) < 0:
            assert time.monotonic() < deadline, (
                f"{text!r} did not come; shown: {self.shown[self._read_to :]!r}"
            )
            if not self._more():
                raise AssertionError(f"it ended before {text!r}: {self.shown[self._read_to :]!r}")
        came = self.shown[self._read_to : at + len(text)]
        self._read_to = at + len(text)
        return came

    def end(self, timeout_s: float = 20.0) -> int:
        """Read to its end and return its exit code."""
        deadline = time.monotonic() + timeout_s
        while self._more():
            assert time.monotonic() < deadline, f"it does not end; shown: {self.shown!r}"
        return self.process.wait(20)

    def _more(self) -> bool:
        """Read what comes within a moment; return whether more may come."""
        ready, _, _ = select([self._ours], [], [], 0.2)
        if not ready:
            return self.process.poll() is None
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the terminal's other end is closed
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)


def _own_terminal() -> None:
    """Make the pty the command's controlling terminal, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
