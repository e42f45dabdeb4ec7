"""What is declared for the worker's pool, and what this worker has of it: it follows every change while it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from broker.adapters import Adapters
from broker.db.errors import StoreUnavailableError
from jobs.adapters import Adapter
from monitoring.metrics import WorkerMetrics
from storage import MissingObjectError, Storage, StorageError
from workers.adapters.files import AdapterFiles
from workers.adapters.places import Place, Places
from workers.adapters.reports import Reports
from workers.engines.base import AdapterBrokenError, Engine, EngineDeadError

log = structlog.get_logger(__name__)

_AGAIN_S = 5.0
"""After so long, what Redis or the storage did not allow is tried again."""

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
        self._engine, self._records, self._metrics = engine, records, metrics
        self._pool, self._most = pool, most
        self._models = frozenset(model.name for model in engine.models())
        self._known: dict[str, Known] = {}
        self._loads: dict[Path, asyncio.Task[None]] = {}
        self._version: int | None = None
        self._reading, self._look, self._awake = asyncio.Lock(), asyncio.Event(), asyncio.Event()
        self._awake.set()
        self._places = Places(self._load_now, engine.unload_adapter, most, self._on_evicted)
        self._files = AdapterFiles(storage, root, _COPIES * most, self._in_use)
        self._reports = Reports(records, worker, self._look.set)
        metrics.adapters_loaded.set_function(lambda: len(self._places.folders()))

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
        if model not in self._known and model not in self._models:
            await self._read()  # it may have been added a moment ago
        known = self._known.get(model)
        if known is None:
            yield None
            return
        with ExitStack() as stack:
            with self._places.wanted(known.folder):
                stack.enter_context(self._places.used(await self._placed(known)))
            yield known.folder

    async def _placed(self, known: Known) -> Place:
        while (place := self._places.get(known.folder)) is None:
            if known.broken is not None:
                raise AdapterBrokenError(f"the adapter {known.adapter.name!r} cannot be used: {known.broken}")
            try:
                await self._load(known)
            except EngineDeadError as error:
                raise EngineDeadError(str(error), reached=False) from error  # it never had the request
        return place

    async def _load(self, known: Known) -> None:
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
            await self._files.fetch(adapter)
            await self._places.load(adapter.name, known.folder)
        except AdapterBrokenError as error:
            self._give_up(known, str(error))
        except MissingObjectError:
            now = await self._records.get(self._pool, adapter.name)
            if now is None or now.key != adapter.key:  # it was removed or replaced
                self._look.set()
                raise
            self._give_up(known, "its object in storage is gone: add it again")
        else:
            if not known.tried:
                log.info("adapter_ready", adapter=adapter.name, digest=adapter.digest)
            known.tried = True
            self._pin()
            if self._known.get(adapter.name) is not known:  # it was removed or replaced meanwhile
                self._places.drop(known.folder)
            else:
                self._reports.loaded(adapter)

    def _give_up(self, known: Known, reason: str) -> None:
        known.broken = reason
        self._metrics.adapter_loads.labels("broken").inc()
        log.warning("adapter_broken", adapter=known.adapter.name, digest=known.adapter.digest, why=reason)
        self._reports.failed(known.adapter, reason)

    async def _load_now(self, name: str, folder: Path) -> None:
        self._files.begin_trial(folder)
        began_s = time.monotonic()
        try:
            await self._engine.load_adapter(name, folder)
        except EngineDeadError:
            raise  # it counts as a death of this version
        except BaseException:
            self._files.end_trial()
            raise
        self._files.end_trial()
        took_s = time.monotonic() - began_s
        self._metrics.adapter_loads.labels("loaded").inc()
        self._metrics.adapter_load_time.observe(took_s)
        log.debug("adapter_loaded", adapter=name, version=folder.name, seconds=round(took_s, 3))

    def _on_evicted(self, place: Place) -> None:
        self._metrics.adapter_evictions.inc()
        log.debug("adapter_unloaded", adapter=place.name, version=place.folder.name)
        known = self._known.get(place.name)
        if known is not None and known.folder == place.folder:
            self._reports.stored(known.adapter)

    def _in_use(self) -> frozenset[Path]:
        return self._places.folders() | self._loads.keys()

    # ---- for a swap of models ------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Unload all adapters, as the engine is about to free its devices. No job runs until :meth:`wake`."""
        self._awake.clear()
        await asyncio.gather(*self._loads.values(), return_exceptions=True)
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
                known = self._known.setdefault(name, Known(adapter, self._files.folder(adapter)))
                known.adapter = adapter
            self._version = version
            self._pin()
            self._look.set()

    async def _try_all(self) -> bool:
        """Load each version that the engine never had, and those that are pinned. Return whether nothing is left to do."""
        done = True
        for name, known in list(self._known.items()):
            wanted = not known.tried or known.adapter.pinned
            there = known.broken is not None or self._places.get(known.folder) is not None
            if not self._awake.is_set():
                return False
            if self._known.get(name) is not known or not wanted or there:
                continue
            try:
                await self._load(known)
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
        self._places.pin({known.folder for known in pinned[: self._most - 1]})

    def close(self) -> None:
        """Remove the copies. The engine has ended."""
        self._files.close()
