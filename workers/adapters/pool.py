"""What is declared for the worker's pool, and what this worker has of it: it follows every change while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import structlog

from broker.adapters import Adapters
from broker.db.errors import StoreUnavailableError
from jobs.adapters import Adapter
from monitoring.metrics import WorkerMetrics
from storage import Storage, StorageError
from workers.adapters.loader import Known, Loader
from workers.adapters.places import Place
from workers.adapters.reports import Reports
from workers.engines.base import Engine, EngineDeadError

log = structlog.get_logger(__name__)

_AGAIN_S = 5.0
"""After so long, what Redis or the storage did not allow is tried again."""


class AdapterPool:
    """The adapters of a worker.

    Args:
        engine: started.
        records: what is declared.
        metrics: gets the loads.
        storage: opens the storage, at its first use.
        root: a folder for copies of files, on a disk of this machine.
        worker: the incarnation. ``pool``: whose adapters it has.
        most: versions in the engine at once.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(
        self,
        engine: Engine,
        records: Adapters,
        metrics: WorkerMetrics,
        storage: Callable[[], Storage],
        root: Path,
        *,
        worker: str,
        pool: str,
        most: int,
    ) -> None:
        self._records, self._pool, self._most = records, pool, most
        self._models = frozenset(model.name for model in engine.models())
        self._known: dict[str, Known] = {}
        self._pinned: frozenset[Path] = frozenset()
        self._version: int | None = None
        self._reading, self._look, self._awake = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._awake.set()
        self._loader = Loader(engine, metrics, storage, root, most, self)
        self._places = self._loader.places
        self._reports = Reports(records, worker, self._look.set)

    # ---- for jobs ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def held(self, model: str) -> AsyncIterator[Path | None]:
        """While a request for a model runs, keep its adapter in the engine; load it first if it is not there.

        Returns:
            The folder of the version to run with; None: no adapter has this name.

        Raises:
            AdapterBrokenError: the engine cannot have it.
            EngineDeadError: the engine is gone.
            StorageError, StoreUnavailableError: its files, or its record, cannot be read now.
        """
        with ExitStack() as stack:
            while True:  # again, if the version is removed or replaced while it is loaded
                if model not in self._known and model not in self._models:
                    await self._read()  # it may have been added a moment ago
                known = self._known.get(model)
                if known is None:
                    break
                with self._places.wanted(known.folder):
                    place = await self._loader.placed(known)
                    if place is not None:
                        stack.enter_context(self._places.used(place))
                        break
            yield None if known is None else known.folder

    # ---- for the loader ------------------------------------------------------------------------------------------------

    def has(self, known: Known) -> bool:
        """See :class:`workers.adapters.loader.Owner`."""
        return self._known.get(known.adapter.name) is known

    async def is_declared(self, adapter: Adapter) -> bool:
        """See :class:`workers.adapters.loader.Owner`."""
        now = await self._records.get(self._pool, adapter.name)
        same = now is not None and now.key == adapter.key
        if not same:
            self._look.set()
        return same

    def on_ready(self, known: Known) -> None:
        """See the Protocol."""
        self._pin()
        if self.has(known):
            self._reports.loaded(known.adapter)
        else:  # it was removed or replaced meanwhile
            self._places.drop(known.folder)

    def on_broken(self, known: Known) -> None:
        """See the Protocol."""
        self._reports.failed(known.adapter, known.broken or "")

    def on_evicted(self, place: Place) -> None:
        """See the Protocol."""
        known = self._known.get(place.name)
        if known is not None and known.folder == place.folder:
            self._reports.stored(known.adapter)

    # ---- for a swap of models ------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Unload all adapters, as the engine is about to free its devices. No job runs until :meth:`wake`."""
        self._awake.clear()
        await self._loader.settle()
        await self._places.clear()

    def wake(self) -> None:
        """Load adapters again, as they are wanted."""
        self._awake.set()
        self._look.set()

    # ---- for the heartbeat ---------------------------------------------------------------------------------------------

    def changed(self, version: int | None) -> None:
        """Take note of the version of the pool's adapters, as Redis says it."""
        if version != self._version:
            self._look.set()

    def state(self) -> dict[str, list[str]]:
        """Return what the worker's record says: the names of the adapters that are loaded."""
        loaded = self._places.folders()
        return {"adapters": sorted(name for name, known in self._known.items() if known.folder in loaded)}

    async def keep(self) -> None:
        """Follow the changes, until it is cancelled."""
        saying = asyncio.create_task(self._reports.keep(), name="adapter reports")
        self._look.set()
        done = True
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if done else _AGAIN_S):
                        await self._look.wait()
                self._look.clear()
                await self._awake.wait()
                try:
                    await self._read()
                    done = await self._try_all()
                except StoreUnavailableError as error:
                    log.warning("adapters_not_read", error=str(error))
                    done = False
                except Exception:
                    log.exception("adapters_not_followed")
                    done = False
        finally:
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)

    async def _read(self) -> None:
        """Learn what is declared now. What is gone or replaced takes no new requests."""
        async with self._reading:
            version = await self._records.version(self._pool)
            if version == self._version:
                return
            declared = {adapter.name: adapter for adapter in await self._records.of(self._pool)}
            for name, known in list(self._known.items()):
                now = declared.get(name)
                if now is None or now.digest != known.adapter.digest:
                    del self._known[name]
                    self._places.drop(known.folder)
                if now is None:
                    self._reports.dropped(known.adapter)
            for name, adapter in declared.items():
                known = self._known.setdefault(name, Known(adapter, self._loader.files.folder(adapter)))
                if (
                    known.broken is not None and known.adapter.key != adapter.key
                ):  # the same files, added again
                    known.tried, known.broken = False, None
                known.adapter = adapter
            self._version = version
            self._pin()
            self._look.set()

    async def _try_all(self) -> bool:
        """Load each version that the engine never had, and those that are pinned. Return whether nothing is left to do."""
        done = True
        for name, known in list(self._known.items()):
            wanted = not known.tried or known.folder in self._pinned
            there = known.broken is not None or self._places.get(known.folder) is not None
            if not self._awake.is_set():
                return False
            if self._known.get(name) is not known or not wanted or there:
                continue
            try:
                await self._loader.load(known)
            except (StorageError, StoreUnavailableError, EngineDeadError) as error:
                log.warning("adapter_not_loaded", adapter=name, error=str(error))
                done = False
        return done

    def _pin(self) -> None:
        """Pin what is to stay, but leave one place for others."""
        pinned = sorted(
            (known for known in self._known.values() if known.adapter.pinned and known.broken is None),
            key=lambda known: (known.adapter.created_ms, known.adapter.name),
        )
        self._pinned = frozenset(known.folder for known in pinned[: self._most - 1])
        self._places.pin(self._pinned)

    def close(self, *, died: bool) -> None:
        """Remove the copies. The engine has ended. ``died``: by itself."""
        self._loader.files.close(died=died)
