"""Programs whose standard error is a full pipe that nobody reads: each line of their log hangs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]


def fill_stderr() -> None:
    """Called by the program itself, when its imports are done: from now on a write to standard error hangs."""
    flags = fcntl.fcntl(2, fcntl.F_GETFL)
    fcntl.fcntl(2, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(2, b"x" * size)
    fcntl.fcntl(2, fcntl.F_SETFL, flags)


def exit_status(code: str, timeout_s: float = 20.0) -> int:
    """Run a program, and return how it ended.

    Raises:
        subprocess.TimeoutExpired: it did not.
    """
    unread, log = os.pipe()
    try:
        with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=log) as process:
            try:
                return process.wait(timeout_s)
            finally:
                process.kill()
    finally:
        os.close(unread)
        os.close(log)
