"""The api's background tasks: the event hub, the limits of the queues, the catalogue and the gauges, the reaper."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from api.access.known_keys import KnownKeys
from api.access.version import READ_EVERY_S
from api.readiness import OK
from api.services import Services
from broker.db.errors import BrokerError, MixedFleetStartError, StoreUnavailableError
from broker.migration import prepare
from broker.observe import Observer, worker_facts
from broker.reaper import reap_forever
from broker.tenant_indexes import index_tenants

log = structlog.get_logger(__name__)

RETRY_S = 1.0
RESTART_S = 2.0
"""Pause before a failed task is started again."""

CALM_S = 2.0
"""How long a task that was started again must run, besides its own pause, before it counts as working."""

DEAF_S = 2.0
"""How long the subscription to events may be lost before the process counts as not ready."""

START_PATIENCE_S = 2.0
INFO_GAP_S = 5.0
"""Least time between two reads of Redis's own metrics, and of those of webhooks."""

BACKLOG_ROUNDS = 10
"""The gauges of backlogs are read anew in each tenth round: that reads every batch that runs."""


@asynccontextmanager
async def run_background(services: Services) -> AsyncIterator[None]:
    """Run the background tasks while the block runs.

    The block starts after a moment's wait for Redis, so that the first request finds everything in place. Without Redis
    the api serves too, reports that it is not ready, and recovers when Redis comes back.

    Raises:
        MixedFleetStartError: another version of Penstock is on this Redis.
    """
    settings = services.settings
    observed, limited = asyncio.Event(), asyncio.Event()
    try:
        await _take_over(services)
    except StoreUnavailableError:
        pass
    except BrokerError:
        await services.aclose()
        raise
    hub = asyncio.create_task(_follow_hub(services), name="hub")
    refresh_s, reap_s = settings.catalogue_refresh_s, settings.reap_interval_s
    loops = [
        _Loop("limits", lambda: _keep_limits(services, limited), RETRY_S),
        _Loop("tenants", services.access_version.run, READ_EVERY_S),
        _Loop("observe", lambda: _observe(services, observed), refresh_s),
        _Loop("reaper", lambda: _reap(services), reap_s),
        _Loop("storage", lambda: _compare_storage(services), refresh_s),
    ]
    firsts = [observed, limited]
    if services.doors is not None:
        keys = services.doors.keys
        loops.append(_Loop("keys", lambda: _follow_keys(services, keys), READ_EVERY_S))
        firsts.append(keys.read)
    services.readiness.add("schema", lambda: OK if services.prepared.is_set() else "not checked yet")
    services.readiness.add("events", lambda: OK if services.hub.deaf_s < DEAF_S else "not subscribed")
    services.readiness.add("tasks", lambda: _state_of(loops))
    with suppress(TimeoutError):
        async with asyncio.timeout(START_PATIENCE_S):
            await asyncio.gather(asyncio.shield(hub), *(first.wait() for first in firsts))
    try:
        yield
    finally:
        tasks = [hub, *(loop.task for loop in loops)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await services.aclose()


class _Loop:
    """Runs a loop that must never end. If it fails, a defect of ours, it starts again: open requests are not affected.

    Args:
        period_s: the longest pause between two of its turns.

    Attributes:
        task: the task that runs it.
    """

    def __init__(self, name: str, run: Callable[[], Awaitable[None]], period_s: float) -> None:
        self.name = name
        self._run = run
        self._calm_s = RESTART_S + period_s + CALM_S
        self._failed_at = float("-inf")
        self.task = asyncio.create_task(self._restart(), name=name)

    @property
    def state(self) -> str:
        """How it does: one that failed lately is failing, although it was started again."""
        if self.task.done():
            return "ended"
        return "failing" if time.monotonic() - self._failed_at < self._calm_s else OK

    async def _restart(self) -> None:
        while True:
            try:
                await self._run()
            except Exception:
                log.exception("task_failed", task=self.name)
            self._failed_at = time.monotonic()
            await asyncio.sleep(RESTART_S)


def _state_of(loops: Sequence[_Loop]) -> str:
    return ", ".join(f"{loop.name}: {loop.state}" for loop in loops if loop.state != OK) or OK


async def _follow_hub(services: Services) -> None:
    try:
        await services.hub.start()
    except TimeoutError:  # the hub keeps trying
        log.warning("hub_waits_for_redis")


async def _take_over(services: Services) -> None:
    """Make the data in Redis this version's. Until then no job is accepted and none is reaped."""
    try:
        await prepare(services.store)
    except MixedFleetStartError as error:
        log.error("schema_refused", error=str(error))  # noqa: TRY400 - the message says all
        raise
    if not services.prepared.is_set():
        await services.agree()
    services.prepared.set()


async def _reap(services: Services) -> None:
    await services.prepared.wait()
    await reap_forever(services.store, services.settings.reap_interval_s, services.metrics.reaper.count)


async def _compare_storage(services: Services) -> None:
    await services.prepared.wait()
    await services.store.large.keep_looking(services.settings.catalogue_refresh_s, first=True)


async def _follow_keys(services: Services, keys: KnownKeys) -> None:
    await services.prepared.wait()
    await keys.watch()


async def _keep_limits(services: Services, limited: asyncio.Event) -> None:
    """Store this process's limits, and again if Redis comes back empty; build the indexes by tenant, if nobody has.

    Set ``limited`` when both are there. The start waits for it a moment, so that lists are whole from the first request on.
    """
    while True:
        try:
            await _take_over(services)
            if await services.store.set_limits(only_if_missing=limited.is_set()):
                await _take_tenants_over(services)
                await _take_pools_over(services)
                await services.agree()
                log.info("limits_stored")
            await index_tenants(services.store)
            limited.set()
        except StoreUnavailableError as error:
            log.debug("limits_not_stored", error=str(error))
        await asyncio.sleep(RETRY_S)


async def _take_tenants_over(services: Services) -> None:
    """Make records of the tenants in the settings, each once for all: from then on they are changed while it runs."""
    taken, differing = await services.tenant_store.take_over(services.settings.tenants)
    if taken:
        log.info("tenants_taken_over", tenants=taken)
    if differing:
        log.warning("tenant_settings_ignored", tenants=differing)


async def _take_pools_over(services: Services) -> None:
    """Declare the pools of the settings that scale from zero, and forget those that earlier settings declared.

    A process without a settings file knows nothing of them, and changes nothing.
    """
    if services.scaling_pools is None:
        return
    answer = await services.declared.take_over(services.scaling_pools)
    if answer.changed:
        log.info("pools_declared", pools=sorted(answer.changed))
        await services.catalogue.refresh()
    if answer.kept:
        log.warning("pool_settings_ignored", pools=sorted(answer.kept))
    for one in answer.taken:
        log.warning("pool_name_taken", pool=one.pool, name=one.name, model=one.model, declared=one.declared)


async def _observe(services: Services, observed: asyncio.Event) -> None:
    """Refresh the catalogue and the gauges of queues, workers and Redis. Set ``observed`` after the first success."""
    catalogue, gauges = services.catalogue, services.shared
    observer = Observer(services.store)
    away = False
    asked_at = backlogs_at = float("-inf")
    while True:
        try:
            await catalogue.refresh()
            views = await services.store.queues(catalogue.pools)
            queues = await observer.queues(views)
            services.samples.take(queues, catalogue.alive)
            gauges.take_queues(queues)
            gauges.take_workers(map(worker_facts, catalogue.alive), catalogue.pools)
            if (began_s := time.monotonic()) >= backlogs_at:
                workers = map(worker_facts, catalogue.alive)
                read = await services.backlogs.read(views, workers, catalogue.home)
                gauges.scaling.take(
                    (pool, backlog, catalogue.replica(pool), catalogue.declares(pool))
                    for pool, backlog in read.items()
                )
                backlogs_at = began_s + BACKLOG_ROUNDS * services.settings.catalogue_refresh_s
            if time.monotonic() - asked_at >= INFO_GAP_S:
                asked_at = time.monotonic()
                gauges.webhooks.take(await observer.webhooks())
                facts = await observer.redis()
                if facts is not None:
                    gauges.take_redis(facts)
        except StoreUnavailableError as error:
            gauges.redis_up.set(0)
            if not away:
                log.warning("redis_unavailable", error=str(error))
            away = True
        except Exception:
            gauges.redis_up.set(0)  # the gauges are stale
            raise
        else:
            gauges.redis_up.set(1)
            away = False
            observed.set()
        await asyncio.sleep(services.settings.catalogue_refresh_s)
