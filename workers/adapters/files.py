"""Copies of adapters' files on this machine's disk.

The engine may read an adapter's file again at any time, and dies if it is gone. So each worker has copies of its own, which
nobody else removes: not the operator, not the storage, not another worker.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tarfile
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from jobs.adapters import Adapter
from storage import Storage
from storage.base import disk_error
from workers import own_folders
from workers.engines.base import AdapterBrokenError

FILES: Final = ("adapter_config.json", "adapter_model.safetensors")

_OWN, _TRIED, _DEATHS = "worker-", "tried-", "deaths"
_MOST_DEATHS = 2
"""Workers that ended while they loaded a version, after which no other on this machine tries it."""


class AdapterFiles:
    """The copies of one worker. Blocks at its start, and only then.

    Args:
        storage: opens the storage, at its first use.
        root: a folder for the copies of all workers of this machine.
        most: copies to keep, beside those in use.
        in_use: returns the folders that the engine may read.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        storage: Callable[[], Storage],
        root: Path,
        most: int,
        in_use: Callable[[], Collection[Path]],
    ) -> None:
        self._storage, self._root, self._most, self._in_use = storage, root, most, in_use
        self._copies: OrderedDict[Path, None] = OrderedDict()
        (root / _DEATHS).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._remove_left()
        self._own, self._lock = own_folders.make_own(root, _OWN)

    def folder(self, adapter: Adapter) -> Path:
        """Return the folder of a version, whether it is there or not. Another name or other files have another one."""
        name = hashlib.sha256(adapter.name.encode()).hexdigest()
        return self._own / f"{adapter.digest[:32]}-{name[:8]}"

    async def fetch(self, adapter: Adapter) -> Path:
        """Return the folder of a version, with its files. A copy that is missing is made.

        Raises:
            AdapterBrokenError: the object in storage is not what was declared.
            StorageError: storage, or this disk, fails; ``MissingObjectError``: the object is gone.
        """
        folder = self.folder(adapter)
        if folder in self._copies:
            self._copies.move_to_end(folder)
            return folder
        archive = folder.with_suffix(".tar")
        try:
            await self._download(adapter, archive)
            await asyncio.to_thread(_unpack, archive, folder)
        except OSError as error:
            raise disk_error("copy an adapter to the disk of its worker", error) from error
        finally:
            with suppress(OSError):
                archive.unlink(missing_ok=True)
        self._copies[folder] = None
        await self._remove_oldest()
        return folder

    async def _download(self, adapter: Adapter, archive: Path) -> None:
        digest = hashlib.sha256()
        with archive.open("wb") as out:
            async for piece in self._storage().read(adapter.key):
                digest.update(piece)
                await asyncio.to_thread(out.write, piece)
        if digest.hexdigest() != adapter.digest:
            raise AdapterBrokenError("its object in storage is not the one that was declared: add it again")

    async def _remove_oldest(self) -> None:
        used = self._in_use()
        spare = [copy for copy in self._copies if copy not in used][: -self._most]
        removed = []
        for folder in spare:  # at once, as it may be wanted again while the files are deleted
            del self._copies[folder]
            removed.append(folder.rename(folder.with_suffix(f".{uuid.uuid4().hex[:8]}")))
        for folder in removed:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    # ---- versions under which a worker ends ------------------------------------------------------------------------

    def begin_trial(self, folder: Path) -> None:
        """Note that the engine is about to load a version.

        Raises:
            AdapterBrokenError: two workers of this machine ended while they did.
        """
        if len(self._deaths_of(folder)) >= _MOST_DEATHS:
            raise AdapterBrokenError(
                "two workers ended while their engine loaded it, so no other tries it: change it and add it again"
            )
        with suppress(OSError):
            (self._own / f"{_TRIED}{folder.name}").touch()

    def end_trial(self) -> None:
        """Note that the engine survived it."""
        _unlink(self._own.glob(f"{_TRIED}*"))

    def acquit(self, folder: Path) -> None:
        """Note that the engine has a version, so that it was no cause of earlier deaths."""
        _unlink(self._deaths_of(folder))

    def _deaths_of(self, folder: Path) -> list[Path]:
        return list((self._root / _DEATHS).glob(f"{folder.name}*"))

    def close(self, *, died: bool) -> None:
        """Remove the copies, when the engine has ended.

        Args:
            died: it ended by itself, which counts against a version that it was loading.
        """
        if not died:
            self.end_trial()
        os.close(self._lock)
        self._remove_left()

    def _remove_left(self) -> None:
        """Remove the folders of workers that are no more, and count what they tried when they ended."""
        own_folders.remove_left(self._root, _OWN, self._count_death)

    def _count_death(self, folder: Path) -> None:
        for tried in folder.glob(f"{_TRIED}*"):
            with suppress(OSError):  # a name takes no room on a full disk
                tried.rename(self._root / _DEATHS / f"{tried.name.removeprefix(_TRIED)}.{folder.name}")


def _unlink(files: Iterable[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _unpack(archive: Path, folder: Path) -> None:
    """Copy the two files of an adapter out of its tar; nothing else of it is looked at.

    Raises:
        AdapterBrokenError: it is no such tar.
        OSError: the disk fails.
    """
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        with tarfile.open(archive) as tar:
            for name in FILES:
                source = tar.extractfile(name)
                if source is None:
                    raise AdapterBrokenError(f"{name} is no file")
                with source, (part / name).open("wb") as out:
                    shutil.copyfileobj(source, out)
    except (tarfile.TarError, KeyError) as error:
        raise AdapterBrokenError(f"its object in storage cannot be read: {error}") from error
    part.rename(folder)
