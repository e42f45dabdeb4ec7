"""The storage Protocol: immutable objects under keys, written whole or not at all.

When a write has returned, the object survives SIGKILL of any process, and a power cut as far as ``fsync`` (a directory) or
the service (a bucket) is reliable. A reader never sees half an object.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.sealing import SealingError

BLOCK = 1024 * 1024
"""Bytes of a piece; objects are read and written in pieces."""


class StorageError(Exception):
    """A storage operation failed. ``reason`` is the value of ``pause_reason`` and of metrics."""

    reason = "storage_error"


class StorageFullError(StorageError):
    """Storage is full. Nothing was written."""

    reason = "storage_full"


class StorageUnavailableError(StorageError):
    """Storage could not be reached, or failed; a retry may succeed. The operation may or may not have been carried out."""

    reason = "storage_unavailable"


class MissingObjectError(StorageError):
    """There is no object of this key."""

    reason = "storage_object_missing"


class UnreadableObjectError(StorageError):
    """An object is encrypted, and cannot be decrypted: its key is missing here, or it was changed.

    Attributes:
        code: which of both.
    """

    def __init__(self, error: SealingError) -> None:
        super().__init__(str(error))
        self.code = error.code
        self.reason = error.code.value


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def disk_error(what: str, error: OSError) -> StorageError:
    """Translate a disk's error. ``what``: the operation, for the message."""
    kind = StorageFullError if error.errno in _FULL else StorageUnavailableError
    return kind(f"{what}: {error.strerror or error}")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object: its key, and its size in bytes."""

    key: str
    size: int


class Writer(Protocol):
    """An object being written. Exactly one of :meth:`commit` and :meth:`abort` must be called at the end."""

    async def write(self, data: bytes) -> None:
        """Add bytes."""

    async def commit(self) -> int:
        """Make the object appear, durably. Return its size in bytes."""

    async def abort(self) -> None:
        """Discard the written bytes. Never raises."""


class Storage(Protocol):
    """Objects under keys such as ``files/file-1``. Usable from any event loop.

    Every method raises :class:`StorageFullError` or :class:`StorageUnavailableError` if storage fails,
    :class:`MissingObjectError` if the object does not exist, and :class:`UnreadableObjectError` if it is encrypted and
    cannot be decrypted.
    """

    async def writer(self, key: str) -> Writer:
        """Begin an object of any size; memory stays constant."""

    async def put(self, key: str, data: bytes) -> None:
        """Write a small object."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Read the bytes from ``start`` up to ``end`` (exclusive; None: to the object's end), piece by piece."""

    async def size(self, key: str) -> int:
        """Return an object's size in bytes."""

    async def list(self, prefix: str) -> list[ObjectInfo]:
        """Return the objects in the folder ``prefix``, ordered by key."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are gone already count as deleted."""


async def read_all(storage: Storage, key: str) -> bytes:
    """Read a small object whole."""
    return b"".join([piece async for piece in storage.read(key)])


async def read_lines(
    storage: Storage, key: str, start: int = 0, end: int | None = None, most: int = 64 * BLOCK
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Read an object's lines, without their newlines, block by block: (offset of the first, lines).

    Args:
        storage: the storage.
        key: the object.
        start: offset of a line's first byte.
        end: offset after the last line; None: the object's end.
        most: longest line, in bytes.

    Raises:
        ValueError: a line is longer.
    """
    rest, offset = b"", start
    async for piece in storage.read(key, start, end):
        data = rest + piece
        cut = data.rfind(b"\n") + 1
        if not cut:
            if len(data) > most:
                msg = f"the line at byte {offset} is longer than {most} bytes"
                raise ValueError(msg)
            rest = data
            continue
        yield offset, data[: cut - 1].split(b"\n")
        offset, rest = offset + cut, data[cut:]
    if rest:
        yield offset, [rest]
