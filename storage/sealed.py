"""Encryption of objects at rest, around any storage.

A sealed object is stored under its key and ``.sealed``: a header (a mark, the id of the encryption key, 24 random bytes of
the object's own), then frames of 64 KiB of plaintext, each with its tag. The object's own key is derived from its random
bytes. The nonce is the frame's number, and whether it is the last; the associated data are the header and the object's key
in the storage (STREAM: Hoang, Reyhanitabar, Rogaway and Vizar, CRYPTO 2015). So any range can be read alone, and a frame
that was changed, moved, taken away or brought from elsewhere is an error. Sizes and offsets are those of the plaintext.

Objects written without keys stay readable. Without keys nothing is sealed, and reading a sealed object is an error.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager

from jobs.sealing import TAG_BYTES, DamagedError, Keyring, SealingError, opened
from storage.base import (
    BLOCK,
    MissingObjectError,
    ObjectInfo,
    Storage,
    UnreadableObjectError,
    Writer,
)

SUFFIX = ".sealed"
FRAME = 64 * 1024
"""Bytes of plaintext in a frame; the last may have fewer, and is always there."""

_RAW_FRAME = FRAME + TAG_BYTES
_MARK = b"PENSTOK1"
_ID_BYTES, _RANDOM_BYTES = 32, 24
HEADER = len(_MARK) + _ID_BYTES + _RANDOM_BYTES


class SealedStorage:
    """See :class:`storage.base.Storage`. To read what cannot be decrypted raises ``UnreadableObjectError``.

    Args:
        inner: where the objects lie.
        keyring: the keys; None: objects are written in clear.
    """

    def __init__(self, inner: Storage, keyring: Keyring | None) -> None:
        self._inner, self._keyring = inner, keyring

    async def writer(self, key: str) -> Writer:
        """See :class:`storage.base.Storage`."""
        if self._keyring is None:
            return await self._inner.writer(key)
        return _SealedWriter(await self._inner.writer(key + SUFFIX), _Frames.begin(self._keyring, key))

    async def put(self, key: str, data: bytes) -> None:
        """See :class:`storage.base.Storage`."""
        if self._keyring is None:
            await self._inner.put(key, data)
            return
        frames = _Frames.begin(self._keyring, key)
        await self._inner.put(key + SUFFIX, frames.header + await frames.seal(data, ends=True))

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """See :class:`storage.base.Storage`."""
        if end is not None and start >= end:
            return
        header = None if self._keyring is None else await self._header(key)
        if header is None:
            try:
                async with aclosing(self._inner.read(key, start, end)) as pieces:
                    async for piece in pieces:
                        yield piece
            except MissingObjectError:
                header = await self._header(key)
                if header is None:
                    raise
        if header is not None:
            async with aclosing(self._read_sealed(key, header, start, end)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _header(self, key: str) -> bytes | None:
        """Read the header of a sealed object; None: there is no sealed object of this key."""
        try:
            return b"".join([piece async for piece in self._inner.read(key + SUFFIX, 0, HEADER)])
        except MissingObjectError:
            return None

    async def _read_sealed(
        self, key: str, header: bytes, start: int, end: int | None
    ) -> AsyncGenerator[bytes, None]:
        first = start // FRAME
        raw_start = HEADER + first * _RAW_FRAME
        raw_end = None if end is None else HEADER + -(-end // FRAME) * _RAW_FRAME
        with _translated():
            frames = _Frames.of(self._keyring, key, header, first)
            rest, at, got = b"", first * FRAME, 0
            async with aclosing(self._inner.read(key + SUFFIX, raw_start, raw_end)) as raw:
                async for piece in raw:
                    got += len(piece)
                    rest += piece
                    cut = (len(rest) - 1) // _RAW_FRAME * _RAW_FRAME  # what is last is known at the end
                    plain, rest = frames.open(rest[:cut]), rest[cut:]
                    if wanted := _part(plain, at, start, end):
                        yield wanted
                    at += len(plain)
            plain = frames.open_rest(rest, may_go_on=raw_end is not None and raw_start + got == raw_end)
        if wanted := _part(plain, at, start, end):
            yield wanted

    async def size(self, key: str) -> int:
        """See :class:`storage.base.Storage`."""
        names = (key, key + SUFFIX) if self._keyring is None else (key + SUFFIX, key)
        try:
            return _plain_size(names[0], await self._inner.size(names[0]))
        except MissingObjectError:
            return _plain_size(names[1], await self._inner.size(names[1]))

    async def list(self, prefix: str) -> list[ObjectInfo]:
        """See :class:`storage.base.Storage`."""
        found = {}
        for one in sorted(await self._inner.list(prefix), key=lambda one: one.key.endswith(SUFFIX)):
            key = one.key.removesuffix(SUFFIX)
            if self._keyring is not None or key not in found:
                found[key] = ObjectInfo(key, _plain_size(one.key, one.size))
        return sorted(found.values(), key=lambda one: one.key)

    async def delete(self, keys: Sequence[str]) -> None:
        """See :class:`storage.base.Storage`."""
        await self._inner.delete([name for key in keys for name in (key, key + SUFFIX)])


class _Frames:
    """The frames of one object, in order.

    Args:
        keyring: with the key that the header names.
        key: the object's.
        header: the object's first bytes.
        number: of the next frame.
    """

    def __init__(self, keyring: Keyring, key: str, header: bytes, number: int = 0) -> None:
        key_id = header[len(_MARK) : -_RANDOM_BYTES].rstrip(b"\0").decode("ascii", "replace")
        self.header = header
        self._cipher = keyring.cipher(key_id, b"object\0" + header[-_RANDOM_BYTES:])
        self._what, self._bound = f"the object {key}", header + key.encode()
        self._number = number

    @classmethod
    def begin(cls, keyring: Keyring, key: str) -> _Frames:
        """Begin a new object."""
        key_id = keyring.first.encode().ljust(_ID_BYTES, b"\0")
        return cls(keyring, key, _MARK + key_id + os.urandom(_RANDOM_BYTES))

    @classmethod
    def of(cls, keyring: Keyring | None, key: str, header: bytes, number: int) -> _Frames:
        """Go on with an object that was written."""
        if len(header) != HEADER or not header.startswith(_MARK):
            raise DamagedError(f"the object {key}")
        return cls(Keyring(()) if keyring is None else keyring, key, header, number)

    def _nonce(self, *, last: bool) -> bytes:
        return self._number.to_bytes(11, "big") + bytes([last])

    async def seal(self, data: bytes, *, ends: bool = False) -> bytes:
        """Encrypt whole frames, or (``ends``) all that is left."""
        if len(data) <= 2 * BLOCK:
            return self._seal(data, ends=ends)
        return await asyncio.to_thread(self._seal, data, ends=ends)

    def _seal(self, data: bytes, *, ends: bool) -> bytes:
        sealed = []
        for at in range(0, max(len(data), 1), FRAME):
            nonce = self._nonce(last=ends and at + FRAME >= len(data))
            sealed.append(self._cipher.encrypt(nonce, data[at : at + FRAME], self._bound))
            self._number += 1
        return b"".join(sealed)

    def open(self, data: bytes) -> bytes:
        """Decrypt whole frames, none of which is the last."""
        return b"".join(
            [self._open(data[at : at + _RAW_FRAME], last=False) for at in range(0, len(data), _RAW_FRAME)]
        )

    def open_rest(self, data: bytes, *, may_go_on: bool) -> bytes:
        """Decrypt the frame at the end of what was read. ``may_go_on``: the object may have more frames."""
        if may_go_on and len(data) == _RAW_FRAME:
            try:
                return self._open(data, last=False)
            except DamagedError:
                pass
        return self._open(data, last=True)

    def _open(self, data: bytes, *, last: bool) -> bytes:
        plain = opened(self._cipher, self._nonce(last=last), data, self._bound, self._what)
        self._number += 1
        return plain


class _SealedWriter:
    def __init__(self, inner: Writer, frames: _Frames) -> None:
        self._inner, self._frames = inner, frames
        self._rest, self._size, self._begun = bytearray(), 0, False

    async def write(self, data: bytes) -> None:
        self._size += len(data)
        self._rest += data
        cut = (len(self._rest) - 1) // FRAME * FRAME  # at least a byte is left for the last frame
        if cut > 0:
            await self._write(await self._frames.seal(bytes(self._rest[:cut])))
            del self._rest[:cut]

    async def _write(self, sealed: bytes) -> None:
        if not self._begun:
            self._begun, sealed = True, self._frames.header + sealed
        await self._inner.write(sealed)

    async def commit(self) -> int:
        await self._write(await self._frames.seal(bytes(self._rest), ends=True))
        await self._inner.commit()
        return self._size

    async def abort(self) -> None:
        await self._inner.abort()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SealingError as error:
        raise UnreadableObjectError(error) from error


def _plain_size(name: str, size: int) -> int:
    """Return the size of an object's plaintext. ``name``, ``size``: as it is stored."""
    if not name.endswith(SUFFIX):
        return size
    return max(0, size - HEADER - TAG_BYTES * -(-(size - HEADER) // _RAW_FRAME))


def _part(plain: bytes, at: int, start: int, end: int | None) -> bytes:
    """Cut what is wanted out of the bytes that begin at the offset ``at``."""
    return plain[max(0, start - at) : None if end is None else max(0, end - at)]
