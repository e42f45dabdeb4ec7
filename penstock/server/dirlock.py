"""A lock on a folder that a child process can hold on to."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


class FolderInUseError(Exception):
    """Somebody else holds the lock. The message says which process took it."""


def lock_folder(folder: Path, wait_s: float) -> int:
    """Lock a folder against every other process.

    The lock belongs to the open file: it holds until this process, and every child that inherited the
    descriptor, has closed it or ended.

    Args:
        folder: an existing folder; a file named ``lock`` is made in it.
        wait_s: how long to wait for somebody who is just going.

    Returns:
        The descriptor to close, and to hand to children that shall hold the lock too.

    Raises:
        FolderInUseError: it is still held after ``wait_s``.
        OSError: the folder cannot be written.
    """
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            owner = os.pread(fd, 32, 0).decode().strip() or "unknown"
            os.close(fd)
            raise FolderInUseError(f"process {owner}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd
