"""This process's own temporary folder: vLLM's logging configuration, and its sockets. A process that was killed leaves one.

vLLM puts the sockets between its processes into the temporary folder itself, four for each engine, and removes none.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from workers import own_folders

PREFIX = "penstock-vllm-"
_RPC = "VLLM_RPC_BASE_PATH"
_MOST_BYTES = 70
"""Of a folder of sockets: the path of a Unix socket has 107 bytes, and vLLM's names have 36."""


def folder() -> Path:
    """Return the folder, which is removed when the process ends. Those of processes that were killed are removed now."""
    return _own()[0]


@cache
def _own() -> tuple[Path, int]:
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp")):  # noqa: S108 - the names below it are random
        own_folders.remove_left(Path(parent), PREFIX)
    made, lock = own_folders.make_own(Path(_parent()), PREFIX)
    atexit.register(_forget, made, os.getpid())
    return made, lock


def _parent() -> str:
    """Return a folder whose name leaves room for those of sockets."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) + 2 * 24 <= _MOST_BYTES else "/tmp"  # noqa: S108


def _forget(made: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a process that was forked from us
        shutil.rmtree(made, ignore_errors=True)


class Sockets:
    """The folder of one engine's sockets. It is there from now until :meth:`remove`."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        if os.environ.get(_RPC, str(folder())).startswith(str(folder())):  # not one that the operator has set
            self._folder = Path(tempfile.mkdtemp(prefix="rpc-", dir=folder()))
            os.environ[_RPC] = str(self._folder)

    def remove(self) -> None:
        """Remove the folder, when the engine's processes have ended."""
        if self._folder is None:
            return
        if os.environ.get(_RPC) == str(self._folder):
            del os.environ[_RPC]
        shutil.rmtree(self._folder, ignore_errors=True)
