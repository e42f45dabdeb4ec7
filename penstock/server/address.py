"""Says where ``penstock up`` serves, in a file of its data directory, so that commands in this folder find it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.cli._local import ADDRESS_FILE

_LOCK_WAIT_S = 1.0  # a command that looks for us holds the lock for a moment


@contextmanager
def announced(data_dir: Path, url: str) -> Iterator[None]:
    """Write the address and hold the file's lock while the block runs; then remove the file.

    The lock tells a reader that the address is true: the system drops it however this process ends. If another
    ``penstock up`` of this directory holds it, its address stays.
    """
    path = data_dir / ADDRESS_FILE
    data_dir.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        ours = _lock(fd)
        if ours:
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"url": url, "pid": os.getpid()}).encode() + b"\n", 0)
        try:
            yield
        finally:
            if ours:
                path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        else:
            return True
