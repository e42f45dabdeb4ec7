"""Bringing versions of adapters into the engine: copied, tried, and loaded once for all that wait for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from jobs.adapters import Adapter
from monitoring.metrics import WorkerMetrics
from storage import MissingObjectError, Storage
from workers.adapters.files import AdapterFiles
from workers.adapters.places import Place, Places
from workers.engines.base import AdapterBrokenError, Engine, EngineDeadError

log = structlog.get_logger(__name__)

_COPIES = 4
"""Copies on the disk for each place in the engine."""


@dataclass(slots=True, eq=False)
class Known:
    """A version that is declared.

    Attributes:
        adapter: its record.
        folder: where its files are, once they are copied.
        tried: the engine had it once.
        broken: why the engine cannot have it; None: it can, or has not tried.
    """

    adapter: Adapter
    folder: Path
    tried: bool = False
    broken: str | None = None


class Owner(Protocol):
    """Who knows what is declared."""

    def has(self, known: Known) -> bool:
        """Return whether a version takes new requests: it was neither removed nor replaced."""

    async def is_declared(self, adapter: Adapter) -> bool:
        """Return whether an adapter's record, with its object, is still the one that is declared."""

    def on_ready(self, known: Known) -> None:
        """Take note that the engine has a version."""

    def on_broken(self, known: Known) -> None:
        """Take note that it cannot have it."""

    def on_evicted(self, place: Place) -> None:
        """Take note that a version has left the engine."""


class Loader:
    """Loads versions.

    Args:
        engine: started.
        metrics: gets the loads.
        storage: opens the storage, at its first use.
        root: a folder for copies of files, on a disk of this machine.
        most: versions in the engine at once.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: WorkerMetrics,
        storage: Callable[[], Storage],
        root: Path,
        most: int,
        owner: Owner,
    ) -> None:
        self._engine, self._metrics, self._owner = engine, metrics, owner
        self._loads: dict[Path, asyncio.Task[None]] = {}
        self.places = Places(self._load_now, engine.unload_adapter, most, self._on_evicted)
        self.files = AdapterFiles(storage, root, _COPIES * most, self._in_use)
        metrics.adapters_loaded.set_function(lambda: len(self.places.folders()))

    def _in_use(self) -> frozenset[Path]:
        return self.places.folders() | self._loads.keys()

    async def placed(self, known: Known) -> Place | None:
        """Return the place of a version, which is loaded first if it has none; None: it was removed or replaced meanwhile.

        Raises:
            AdapterBrokenError: the engine cannot have it.
            EngineDeadError: the engine is gone.
            StorageError, StoreUnavailableError: it cannot be read now.
        """
        while (place := self.places.get(known.folder)) is None:
            if not self._owner.has(known):
                return None
            if known.broken is not None:
                raise AdapterBrokenError(f"the adapter {known.adapter.name!r} cannot be used: {known.broken}")
            try:
                await self.load(known)
            except EngineDeadError as error:
                raise EngineDeadError(str(error), reached=False) from error  # it never had the request
        return place

    async def settle(self) -> None:
        """Wait until nothing is being loaded."""
        await asyncio.gather(*self._loads.values(), return_exceptions=True)

    async def load(self, known: Known) -> None:
        """Load a version, once for all that wait for it, and to the end even if they are gone."""
        task = self._loads.get(known.folder)
        if task is None:
            task = self._loads[known.folder] = asyncio.get_running_loop().create_task(
                self._fetch_and_load(known)
            )
            task.add_done_callback(lambda ended: self._on_loaded(known, ended))
        await asyncio.shield(task)

    def _on_loaded(self, known: Known, ended: asyncio.Task[None]) -> None:
        del self._loads[known.folder]
        if not ended.cancelled():
            ended.exception()  # whoever waits has it, too

    async def _fetch_and_load(self, known: Known) -> None:
        adapter = known.adapter
        try:
            await self.files.fetch(adapter)
            await self.places.load(adapter.name, known.folder)
        except AdapterBrokenError as error:
            self._give_up(known, str(error))
        except MissingObjectError:
            if not await self._owner.is_declared(adapter):
                raise
            self._give_up(known, "its object in storage is gone: add it again")
        else:
            if not known.tried:
                log.info("adapter_ready", adapter=adapter.name, digest=adapter.digest)
            known.tried = True
            self._owner.on_ready(known)

    def _give_up(self, known: Known, reason: str) -> None:
        known.broken = reason
        self._metrics.adapter_loads.labels("broken").inc()
        log.warning("adapter_broken", adapter=known.adapter.name, digest=known.adapter.digest, why=reason)
        self._owner.on_broken(known)

    async def _load_now(self, name: str, folder: Path) -> None:
        self.files.begin_trial(folder)
        began_s = time.monotonic()
        try:
            await self._engine.load_adapter(name, folder)
        except EngineDeadError:
            raise  # it counts as a death of this version
        except BaseException:
            self.files.end_trial()
            raise
        self.files.end_trial()
        self.files.acquit(folder)
        took_s = time.monotonic() - began_s
        self._metrics.adapter_loads.labels("loaded").inc()
        self._metrics.adapter_load_time.observe(took_s)
        log.debug("adapter_loaded", adapter=name, version=folder.name, seconds=round(took_s, 3))

    def _on_evicted(self, place: Place) -> None:
        self._metrics.adapter_evictions.inc()
        log.debug("adapter_unloaded", adapter=place.name, version=place.folder.name)
        self._owner.on_evicted(place)
