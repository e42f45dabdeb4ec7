"""The coordinator: one event loop that drives batches, performs tasks and delivers webhooks, all under leases."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from broker.coordinators import Coordinators
from broker.db.client import connect
from broker.db.errors import StoreError, StoreUnavailableError
from broker.events.subscriber import Subscriber
from broker.jobs import JobStore
from broker.migration import prepare
from coordinator.context import Context
from coordinator.driver import Driver, give_up
from coordinator.lease import under_lease
from coordinator.settings import CoordinatorSettings
from coordinator.sweep import sweep
from coordinator.tasks import Tasks
from coordinator.webhooks.deliveries import Deliveries
from monitoring.metrics import AcceptedJobs
from storage import StorageError

log = structlog.get_logger(__name__)

LOOK_S = 0.5
"""Longest time between two looks for work; a hint makes it shorter."""

LEAST_S = 0.05
"""Shortest time between two looks. Hints come at each commit of a batch, and most batches are driven elsewhere."""

SWEEP_S = 2.0
FINISH_S = 5.0
"""After a stop was asked for: how long the present steps and tasks may take."""

LEAVE_S = 2.0
"""After that: how long giving the leases back may take."""


class Coordinator:
    """Runs until :meth:`stop`. Make it and call it in the thread of its event loop.

    Args:
        metrics: where accepted chunks are counted.
        metrics_url: where these are served; None: nowhere.
    """

    def __init__(
        self, settings: CoordinatorSettings, metrics: AcceptedJobs, metrics_url: str | None = None
    ) -> None:
        host, pid = socket.gethostname(), os.getpid()
        self._token = f"{host}-{pid}-{secrets.token_hex(4)}"
        self._info = {"id": self._token, "host": host, "pid": pid, "metrics_url": metrics_url}
        self._settings = settings
        store = JobStore(connect(settings.redis_url), settings, metrics.store_faults.inc)
        self._context = Context.over(store, settings, self._token, metrics)
        self._coordinators = Coordinators(store)
        self._hints = Subscriber(
            connect(settings.redis_url, text=False),
            store.keys("look_channel"),
            self._hinted,
            self._all_hinted,
            store.faults,
        )
        self._tasks = Tasks(self._context)
        self._webhooks = Deliveries(self._context, self._look_now)
        self._drivers: dict[str, Driver] = {}
        self._driving: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Have :meth:`run` finish the present steps, give back its leases and return; called again, without finishing."""
        if self._stopping.is_set():
            for task in self._working:
                task.cancel()
        self._stopping.set()
        self._tasks.closed = True
        self._webhooks.stop()
        self._look_now()

    async def run(self) -> None:
        """Drive batches, perform tasks and deliver webhooks until :meth:`stop`.

        An absent Redis is waited for, but not after a stop.

        Raises:
            MixedFleetStartError: another version of Penstock is on this Redis.
        """
        try:
            await self._prepare()
        except BaseException:
            await self._context.store.aclose()
            raise
        beside = [
            asyncio.create_task(self._repeat(self._beat, self._settings.batch_lease_s / 3), name="beat"),
            asyncio.create_task(self._repeat(self._sweep, SWEEP_S), name="sweep"),
            asyncio.create_task(self._listen(), name="hints"),
        ]
        self._looking = asyncio.create_task(self._look_for_work(), name="look")
        try:
            await self._stopping.wait()
        finally:
            await self._leave(beside)

    async def _prepare(self) -> None:
        while not self._stopping.is_set():
            try:
                await prepare(self._context.store)
            except StoreUnavailableError as error:
                log.warning("coordinator_waits_for_redis", error=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._stopping.wait()
            else:
                return

    # ---- work --------------------------------------------------------------------------------------------------

    @property
    def _working(self) -> set[asyncio.Task[None]]:
        looking = {self._looking} if self._looking and not self._looking.done() else set()
        return looking | self._driving | self._tasks.running | self._webhooks.running

    async def _look_for_work(self) -> None:
        away = False
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                await self._look()
                away = False
            except StoreError as error:
                if not away:
                    log.warning("coordinator_waits_for_redis", error=str(error))
                away = True
            except Exception:
                log.exception("task_failed", task="look")
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAST_S):
                    await self._stopping.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    async def _look(self) -> None:
        """Take up the batches that nobody drives, the tasks that nobody performs and the webhooks that are due."""
        for batch_id in await self._context.batches.undriven():
            if self._stopping.is_set():
                return
            if batch_id in self._drivers:
                continue
            if await self._prolong(batch_id):
                self._drivers[batch_id] = driver = Driver(self._context, batch_id)
                task = asyncio.create_task(self._drive(driver, batch_id), name=f"drive {batch_id}")
                self._driving.add(task)
                task.add_done_callback(self._driving.discard)
        await self._tasks.look()
        await self._webhooks.look()

    async def _prolong(self, batch_id: str) -> bool:
        return await self._context.batches.lease(batch_id, self._token, self._settings.batch_lease_s)

    async def _drive(self, driver: Driver, batch_id: str) -> None:
        """Drive a batch while its lease is kept."""
        lease_s = self._settings.batch_lease_s
        work = self._try_to_drive(driver, batch_id)
        try:
            if not await under_lease(work, lambda: self._prolong(batch_id), lease_s, batch_id):
                log.warning("batch_lease_lost", batch=batch_id)
        finally:
            try:
                with suppress(StoreError):
                    await self._context.batches.lease(batch_id, self._token, 0)
            finally:
                del self._drivers[batch_id]

    async def _try_to_drive(self, driver: Driver, batch_id: str) -> None:
        """Drive a batch. After an error of our own, note it and keep the lease for a while: others would fail, too."""
        try:
            await driver.run()
        except Exception as error:
            log.exception("batch_driver_failed", batch=batch_id)
            with suppress(StoreError):
                await give_up(self._context, batch_id, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.batch_lease_s):
                    await self._stopping.wait()

    # ---- beside it ---------------------------------------------------------------------------------------------

    async def _repeat(self, work: Callable[[], Awaitable[None]], interval_s: float) -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("task_failed", task=work.__name__)
            await asyncio.sleep(interval_s)

    async def _beat(self) -> None:
        try:
            await self._coordinators.beat(self._info, self._settings.batch_lease_s)
        except StoreError as error:
            log.debug("heartbeat_failed", error=str(error))

    async def _sweep(self) -> None:
        try:
            await sweep(self._context)
        except (StoreError, StorageError) as error:
            log.debug("sweep_failed", error=str(error))

    async def _listen(self) -> None:
        with suppress(TimeoutError):  # the subscriber keeps trying
            await self._hints.start()

    def _hinted(self, ids: list[str]) -> None:
        """Wake the drivers of these batches; an empty id stands for all."""
        if "" in ids:
            self._all_hinted()
            return
        for batch_id in ids:
            if driver := self._drivers.get(batch_id):
                driver.wake()
            else:  # a batch that nobody drives, a task, or an endpoint of webhooks
                self._look_now()

    def _all_hinted(self) -> None:
        for driver in self._drivers.values():
            driver.wake()
        self._look_now()

    def _look_now(self) -> None:
        self._wake.set()

    async def _leave(self, beside: list[asyncio.Task[None]]) -> None:
        """Finish what can be finished soon, and give every lease back, so that others continue at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                while working := self._working:  # a look under way may still begin something
                    for driver in self._drivers.values():
                        driver.stop()
                    await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        left = [*self._working, *beside]
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=LEAVE_S)
        last = asyncio.create_task(self._say_goodbye(), name="goodbye")
        await asyncio.wait({last}, timeout=LEAVE_S)
        last.cancel()

    async def _say_goodbye(self) -> None:
        with suppress(StoreError):
            await self._coordinators.beat(self._info, 0)
        await self._webhooks.aclose()
        await self._hints.stop()
        await self._context.store.aclose()
