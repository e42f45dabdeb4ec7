"""Finds ids that occur twice, or in one file and not in the other. Memory is bounded, whatever the number of ids.

Ids are hashed (128 bits of BLAKE2b) into 64 partitions, which are kept in memory while they are small and in a temporary
file beyond that; at the end one partition at a time is sorted and looked at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import IO

from storage.base import disk_error

_PARTITIONS = 64
_DIGEST = 16
_RECORD = _DIGEST + 8
_SPILL_BYTES = 256 * 1024


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error("temporary file", error) from error


class Digests:
    """A multiset of (id, tag). Close it after use.

    Its methods raise ``StorageFullError`` or ``StorageUnavailableError`` if the temporary file cannot be written or read.
    """

    def __init__(self) -> None:
        self._buffers = [bytearray() for _ in range(_PARTITIONS)]
        self._spilled: list[list[tuple[int, int]]] = [[] for _ in range(_PARTITIONS)]
        self._file: IO[bytes] | None = None

    def add(self, ident: str, tag: int) -> None:
        """Add an id with a number from 0 up to 2 to the 63rd."""
        digest = blake2b(ident.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).digest()
        buffer = self._buffers[digest[0] % _PARTITIONS]
        buffer += digest
        buffer += tag.to_bytes(8, "big")
        if len(buffer) >= _SPILL_BYTES:
            self._spill(digest[0] % _PARTITIONS)

    @_translated()
    def _spill(self, partition: int) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        buffer = self._buffers[partition]
        self._file.seek(0, 2)
        self._spilled[partition].append((self._file.tell(), len(buffer)))
        self._file.write(buffer)
        buffer.clear()

    def partitions(self) -> Iterator[list[bytes]]:
        """Yield every partition's records, sorted by id, then by tag."""
        for place, buffer in enumerate(self._buffers):
            data = bytearray()
            for offset, size in self._spilled[place]:
                data += self._read(offset, size)
            data += buffer
            yield sorted(bytes(data[at : at + _RECORD]) for at in range(0, len(data), _RECORD))

    @_translated()
    def _read(self, offset: int, size: int) -> bytes:
        if self._file is None:
            return b""
        self._file.seek(offset)
        return self._file.read(size)

    def close(self) -> None:
        """Free everything."""
        if self._file is not None:
            with suppress(OSError):  # unwritten data is no longer needed
                self._file.close()
        self._buffers = []


def same_id(one: bytes, other: bytes) -> bool:
    """Whether two records are of the same id."""
    return one[:_DIGEST] == other[:_DIGEST]


def tag_of(record: bytes) -> int:
    """Return a record's tag."""
    return int.from_bytes(record[_DIGEST:], "big")
