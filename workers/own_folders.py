"""Folders of one process's own among those of others. A process that is killed leaves its own, and the next one removes it.

A process holds a lock in its folder as long as it lives, in whatever container.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_LOCK: Final = "lock"


def make_own(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder, which only this user can read.

    Returns:
        The folder, and an open file. It is this process's own until that is closed, which the end of the process does, too.

    Raises:
        OSError: the folder cannot be made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Until it is locked, another process may take it for a dead one's, and remove it.
        with suppress(FileNotFoundError, BlockingIOError):
            lock = _locked(folder)
            if os.fstat(lock).st_nlink:
                return folder, lock
            os.close(lock)


def remove_left(parent: Path, prefix: str, look: Callable[[Path], None] = lambda _: None) -> None:
    """Remove this user's folders whose processes are no more, also of those that ended while they made or removed one.

    Args:
        look: called with each of them before it is removed. If it raises an ``OSError``, that folder stays.
    """
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # a living process has it, or it goes at this moment
            found = folder.lstat()
            if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
                continue
            lock = _locked(folder)
            try:
                look(folder)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _locked(folder: Path) -> int:
    """Lock a folder. Returns the file that holds the lock.

    Raises:
        OSError: it cannot be locked; ``BlockingIOError``: a living process has it.
    """
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
