"""Objects in a directory, durable: obstore's local store does not fsync, so the writing half is ours (ADR 0020).

An object is written under ``.staging/``, fsynced and renamed to its place, and its directory is fsynced. Files that a crash
leaves in ``.staging`` are removed when they are a day old.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from obstore.store import LocalStore

from storage.base import (
    BLOCK,
    MissingObjectError,
    Writer,
    disk_error,
)
from storage.remote import ObstoreReads

P = ParamSpec("P")
T = TypeVar("T")

_STALE_S = 86_400.0


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise MissingObjectError(f"{what}: {error}") from error
    except OSError as error:
        raise disk_error(what, error) from error


async def _in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run to the end even if the caller is cancelled, so that no write happens after the file is closed."""
    task = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):
            await task
        raise


class LocalStorage(ObstoreReads):
    """See :class:`storage.base.Storage`.

    Args:
        root: the directory; created if missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._staging = self._root / ".staging"
        with _translated(f"open {root}"):
            self._staging.mkdir(parents=True, exist_ok=True)
            self._sweep()
        self._store = LocalStore(self._root)

    def _sweep(self) -> None:
        before = time.time() - _STALE_S
        for path in self._staging.iterdir():
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()

    async def writer(self, key: str) -> Writer:
        """See :class:`storage.base.Storage`."""
        staged = self._staging / uuid.uuid4().hex
        opened: list[IO[bytes]] = []
        try:
            with _translated(f"write {key}"):
                await _in_thread(lambda: opened.append(staged.open("wb", buffering=BLOCK)))
        except BaseException:
            for out in opened:  # the call was cancelled meanwhile, so nobody gets it
                await _LocalWriter(key, self._root, staged, out).abort()
            raise
        return _LocalWriter(key, self._root, staged, opened[0])

    async def put(self, key: str, data: bytes) -> None:
        """See :class:`storage.base.Storage`."""
        writer = await self.writer(key)
        try:
            await writer.write(data)
            await writer.commit()
        except BaseException:
            await writer.abort()
            raise

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`storage.base.Storage`."""
        with _translated("delete"):
            await _in_thread(self._delete, keys)

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            (self._root / key).unlink(missing_ok=True)
        folders = {folder for key in keys for folder in (self._root / key).parents}
        for folder in sorted(folders - {self._root, *self._root.parents}, key=lambda one: -len(one.parts)):
            with suppress(OSError):  # it is not empty
                folder.rmdir()


class _LocalWriter:
    def __init__(self, key: str, root: Path, staged: Path, out: IO[bytes]) -> None:
        self._key, self._root, self._staged, self._out = key, root, staged, out
        self._size = 0

    async def write(self, data: bytes) -> None:
        self._size += len(data)
        with _translated(f"write {self._key}"):
            if len(data) < BLOCK // 16:  # mostly this only fills the buffer
                self._out.write(data)
            else:
                await _in_thread(self._out.write, data)

    async def commit(self) -> int:
        with _translated(f"write {self._key}"):
            await _in_thread(self._commit)
        return self._size

    def _commit(self) -> None:
        self._out.flush()
        os.fsync(self._out.fileno())
        self._out.close()
        target = self._root / self._key
        for _ in range(10):
            made = [folder for folder in target.parents if not folder.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # a deletion beside us took the empty folder
                self._staged.replace(target)
                break
        else:
            raise OSError(errno.EIO, f"the folder of {self._key} was deleted again and again")
        for folder in {target.parent, *(one.parent for one in made)}:
            _fsync_folder(folder)

    async def abort(self) -> None:
        def drop() -> None:
            with suppress(OSError):
                self._out.close()
            with suppress(OSError):
                self._staged.unlink(missing_ok=True)

        await _in_thread(drop)


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
