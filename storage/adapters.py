"""LoRA adapters as objects: one tar of exactly two files, so equal files have equal digests.

Whatever an adapter comes as, its two files are on disk first. They are checked there, and then written.
"""

from __future__ import annotations

import asyncio
import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from jobs.adapter_files import (
    CONFIG,
    MOST_CONFIG,
    WEIGHTS,
    AdapterFacts,
    BadAdapterError,
    KeptAdapter,
    check_header,
    header_length,
    read_config,
)
from storage.base import BLOCK, Storage

_MOST_MEMBERS = 1000
_MOST_HEADER = 64 * 1024
"""Bytes of an extended header at most: tarfile reads one whole, and compressed ones may be far larger than their upload."""

_EXTENDED = {
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
}
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter's files on disk."""

    config: Path
    weights: Path

    @classmethod
    def of(cls, folder: Path) -> AdapterFiles:
        """Return those of a folder."""
        return cls(folder / CONFIG, folder / WEIGHTS)


def check_files(files: AdapterFiles, most_bytes: int) -> AdapterFacts:
    """Check an adapter's files, without reading its weights.

    Args:
        most_bytes: of both.

    Raises:
        BadAdapterError: one is missing, wrong or too large.
        OSError: the disk failed.
    """
    try:
        with files.config.open("rb") as source:
            facts = read_config(source.read(MOST_CONFIG + 1))
        size = files.weights.stat().st_size
        if size > most_bytes:
            raise BadAdapterError(
                f"{WEIGHTS} has {size} bytes, more than the {most_bytes} of the setting adapter_max_bytes"
            )
        with files.weights.open("rb") as source:
            length = header_length(source.read(8), size)
            check_header(source.read(length), size, facts)
    except FileNotFoundError as error:
        raise BadAdapterError(
            f"there is no {Path(error.filename).name}; an adapter has {CONFIG} and {WEIGHTS}"
        ) from error
    return facts


async def keep(files: AdapterFiles, storage: Storage, key: str) -> KeptAdapter:
    """Write an adapter's files as one object.

    Raises:
        BadAdapterError: a file changed meanwhile.
        OSError: the disk failed.
        StorageError: storage failed.
    """
    writer, digest = await storage.writer(key), hashlib.sha256()
    try:
        async for piece in _pieces(files):
            digest.update(piece)
            await writer.write(piece)
        return KeptAdapter(digest.hexdigest(), await writer.commit())
    except BaseException:
        await writer.abort()
        raise


@asynccontextmanager
async def opened(
    storage: Storage, key: str, config: bytes | None, most_bytes: int
) -> AsyncIterator[AdapterFiles]:
    """Read an adapter that a client uploaded: a tar, also a compressed one, or its weights alone.

    Args:
        config: its configuration; None: it is in the tar.
        most_bytes: of what is in it.

    Yields:
        Its files, in a folder that lasts as long as the context.

    Raises:
        BadAdapterError: it is no adapter, or too large.
        StorageError: storage failed.
    """
    with TemporaryDirectory(prefix="penstock-adapter-") as room:
        folder = Path(room)
        if config is None:
            await _copy(storage, key, folder / "upload")
            await asyncio.to_thread(unpack, folder / "upload", folder, most_bytes)
        else:
            (folder / CONFIG).write_bytes(config)
            await _copy(storage, key, folder / WEIGHTS)
        yield AdapterFiles.of(folder)


class _Member(tarfile.TarInfo):
    """A member whose headers cannot fill the memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Refuse a header before it is read. tarfile has this method for subclasses; its types do not know it."""
        if self.type in _EXTENDED and self.size > _MOST_HEADER:
            raise BadAdapterError(
                f"the tar has an extended header of {self.size} bytes, more than {_MOST_HEADER}"
            )
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member

    def _proc_gnusparse_10(self, *_: object) -> None:
        self._refuse_sparse()

    def _refuse_sparse(self) -> None:
        """Their maps are as long as the sender likes."""
        raise BadAdapterError("the tar has a sparse file; make it without --sparse")


def unpack(tar: Path, folder: Path, most_bytes: int) -> None:
    """Take an adapter's two files out of a tar, and nothing else. They may lie in one folder in it.

    Raises:
        BadAdapterError: it is no tar, too large, has links or paths that lead out of it, or one of the files twice.
    """
    seen, total = set(), 0
    try:
        with tarfile.open(tar, "r|*", tarinfo=_Member) as archive:
            for number, member in enumerate(archive):
                path, total = Path(member.name), total + member.size
                if number >= _MOST_MEMBERS or total > most_bytes:
                    raise BadAdapterError(
                        f"the tar has more than {_MOST_MEMBERS} files, or {most_bytes} bytes (setting adapter_max_bytes)"
                    )
                if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
                    raise BadAdapterError(
                        f"the tar has {member.name[:100]!r}: links, devices and paths out of it are refused"
                    )
                if member.isfile() and path.name in {CONFIG, WEIGHTS}:
                    if path.name in seen:
                        raise BadAdapterError(f"the tar has {path.name} twice")
                    seen.add(path.name)
                    source = archive.extractfile(member)
                    assert source is not None  # noqa: S101 - it is a file
                    with source, (folder / path.name).open("xb") as out:
                        _pour(source, out)
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        OSError,
        zlib.error,
        lzma.LZMAError,
        RecursionError,
    ) as error:
        if isinstance(error, BadAdapterError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise BadAdapterError(f"it is no tar, or a damaged one: {error}") from error


def _pour(source: IO[bytes], out: IO[bytes]) -> None:
    while piece := source.read(BLOCK):
        out.write(piece)


async def _copy(storage: Storage, key: str, path: Path) -> None:
    with path.open("xb") as out:
        async for piece in storage.read(key):
            await asyncio.to_thread(out.write, piece)


async def _pieces(files: AdapterFiles) -> AsyncIterator[bytes]:
    """Yield a tar: the same files make the same bytes, whatever their dates and owners are."""
    for path, name in ((files.config, CONFIG), (files.weights, WEIGHTS)):
        with path.open("rb") as source:
            left = os.fstat(source.fileno()).st_size
            member = tarfile.TarInfo(name)
            member.size = left
            yield member.tobuf(tarfile.PAX_FORMAT)
            padding = bytes(-left % tarfile.BLOCKSIZE)
            while left:
                piece = await asyncio.to_thread(source.read, min(left, BLOCK))
                if not piece:
                    raise BadAdapterError(f"{name} became shorter while it was read")
                left -= len(piece)
                yield piece
            yield padding
    yield _END
