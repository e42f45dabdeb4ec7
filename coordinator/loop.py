"""The coordinator: a thread of the api process, with an event loop of its own, that drives the batches it has leases for.

Each api process has one. A batch is driven by whichever has its lease; when a process dies, another takes the batch up once
the lease has run out. Long work pauses every two milliseconds (:class:`coordinator.context.Breath`), so that the process's
requests hardly notice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

import structlog

from api.settings import ApiSettings
from broker.db.client import connect
from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from coordinator.context import Bulk
from coordinator.driver import Driver, give_up
from coordinator.sweep import sweep
from storage import StorageError

log = structlog.get_logger(__name__)

LOOK_S = 0.5
SWEEP_S = 2.0
STOP_S = 5.0


class Coordinator:
    """Runs in a daemon thread from :meth:`start` to :meth:`stop`.

    Args:
        settings: of the api.
        process: this process's name among all api processes.
        count_accepted: told (in the thread) the lane and the tenant of each chunk that is queued.
    """

    def __init__(
        self, settings: ApiSettings, process: str, count_accepted: Callable[[str, str], None]
    ) -> None:
        self._settings = settings
        self._count_accepted = count_accepted
        self._token = process
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._stopping = False
        self._drivers: dict[str, asyncio.Task[None]] = {}

    # ---- called from other threads -----------------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def poke(self) -> None:
        """Look for work now rather than in half a second."""
        if self._loop is not None and self._wake is not None and not self._stopping:
            with suppress(RuntimeError):  # its loop has just closed
                self._loop.call_soon_threadsafe(self._wake.set)

    def stop(self) -> None:
        """End, and give up the leases, so that another process goes on at once. Blocks a few seconds at most."""
        self.poke()
        self._stopping = True
        self._thread.join(STOP_S)

    # ---- in the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        store = JobStore(connect(self._settings.redis_url), self._settings)
        bulk = Bulk.make(self._settings, store, self._token, self._count_accepted)
        sweeper = asyncio.create_task(self._sweep(bulk), name="sweep")
        try:
            while not self._stopping:
                try:
                    await self._look(bulk)
                except StoreUnavailableError as error:
                    log.debug("coordinator_waits_for_redis", error=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
                self._wake.clear()
        finally:
            tasks = [sweeper, *self._drivers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(StoreUnavailableError, TimeoutError):
                async with asyncio.timeout(STOP_S / 2):
                    for batch_id in self._drivers:
                        await bulk.batches.lease(batch_id, self._token, 0)
            await bulk.store.aclose()

    async def _look(self, bulk: Bulk) -> None:
        """Take up batches that nobody looks after."""
        for batch_id in await bulk.batches.active():
            if batch_id in self._drivers:
                continue
            if await bulk.batches.lease(batch_id, self._token, self._settings.batch_lease_s):
                task = asyncio.create_task(self._drive(bulk, batch_id), name=f"drive {batch_id}")
                self._drivers[batch_id] = task

    async def _drive(self, bulk: Bulk, batch_id: str) -> None:
        """Drive a batch while its lease is kept."""
        driver = asyncio.create_task(Driver(bulk, batch_id).run())
        keeper = asyncio.create_task(self._keep(bulk, batch_id))
        try:
            await asyncio.wait({driver, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if driver.done() and driver.exception() is not None:
                log.error("batch_driver_failed", batch=batch_id, exc_info=driver.exception())
                with suppress(StoreUnavailableError):
                    await give_up(bulk, batch_id, driver.exception() or RuntimeError())
                await asyncio.sleep(self._settings.batch_lease_s)
            elif not driver.done():
                log.warning("batch_lease_lost", batch=batch_id)
        finally:
            for task in (driver, keeper):
                task.cancel()
            await asyncio.gather(driver, keeper, return_exceptions=True)
            with suppress(StoreUnavailableError):
                await bulk.batches.lease(batch_id, self._token, 0)
            if not self._stopping:
                self._drivers.pop(batch_id, None)

    async def _keep(self, bulk: Bulk, batch_id: str) -> None:
        """Prolong a lease; return when it is lost. While Redis is away it is nobody else's either."""
        while True:
            await asyncio.sleep(self._settings.batch_lease_s / 3)
            try:
                if not await bulk.batches.lease(batch_id, self._token, self._settings.batch_lease_s):
                    return
            except StoreUnavailableError as error:
                log.debug("lease_not_prolonged", batch=batch_id, error=str(error))

    async def _sweep(self, bulk: Bulk) -> None:
        while True:
            try:
                await sweep(bulk)
            except (StoreUnavailableError, StorageError) as error:
                log.debug("sweep_failed", error=str(error))
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(SWEEP_S)
