"""The api's background tasks: the event hub, Celery's message format, the catalogue and the gauges, the reaper, batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from api.readiness import OK
from api.services import Services
from broker.celery.envelope import learn_at
from broker.db.errors import StoreUnavailableError
from broker.observe import Observer, worker_facts
from broker.reaper import reap_forever

log = structlog.get_logger(__name__)

RETRY_S = 1.0
RESTART_S = 2.0
"""Pause before a failed task is started again."""

DEAF_S = 2.0
"""How long the subscription to events may be lost before the process counts as not ready."""

START_PATIENCE_S = 2.0
INFO_GAP_S = 5.0
"""Least time between two reads of Redis's own metrics."""


@asynccontextmanager
async def run_background(services: Services) -> AsyncIterator[None]:
    """Run the background tasks while the block runs.

    The block starts after a moment's wait for Redis, so that the first request finds everything in place. Without Redis
    the api serves too, reports that it is not ready, and recovers when Redis comes back.
    """
    settings = services.settings
    observed, published = asyncio.Event(), asyncio.Event()
    count_reaped = services.metrics.reaper.count
    hub = asyncio.create_task(_follow_hub(services), name="hub")
    loops = [
        asyncio.create_task(_restart(name, loop), name=name)
        for name, loop in (
            ("envelope", lambda: _keep_envelope(services, published)),
            ("observe", lambda: _observe(services, observed)),
            ("reaper", lambda: reap_forever(services.store, settings.reap_interval_s, count_reaped)),
        )
    ]
    services.readiness.add("events", lambda: OK if services.hub.deaf_s < DEAF_S else "not subscribed")
    services.readiness.add("tasks", lambda: _state_of(loops))
    with suppress(TimeoutError):
        async with asyncio.timeout(START_PATIENCE_S):
            await asyncio.gather(asyncio.shield(hub), observed.wait(), published.wait())
    try:
        yield
    finally:
        for task in (hub, *loops):
            task.cancel()
        await asyncio.gather(hub, *loops, return_exceptions=True)
        await services.aclose()


def _state_of(loops: Sequence[asyncio.Task[None]]) -> str:
    """Say whether loops that must never end have ended."""
    ended = [task.get_name() for task in loops if task.done()]
    return f"ended: {', '.join(ended)}" if ended else OK


async def _restart(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop that must never end. If it fails, a defect of ours, it starts again: open requests are not affected."""
    while True:
        try:
            await loop()
        except Exception:
            log.exception("task_failed", task=name)
        await asyncio.sleep(RESTART_S)


async def _follow_hub(services: Services) -> None:
    try:
        await services.hub.start()
    except TimeoutError:  # the hub keeps trying
        log.warning("hub_waits_for_redis")


async def _keep_envelope(services: Services, published: asyncio.Event) -> None:
    """Learn Celery's message format once, and keep it in Redis. Set ``published`` when it is there."""
    settings, store = services.settings, services.store
    envelope: str | None = None
    while True:
        try:
            if envelope is None:
                learned = await asyncio.to_thread(learn_at, settings.redis_url, settings.namespace)
                await store.set_envelope(learned)
                await store.set_limits()
                envelope = learned
                services.readiness.envelope_ready = True
                published.set()
                log.info("envelope_published")
            # A Redis that came back empty needs it again. The format of a newer process stays.
            elif await store.set_envelope(envelope, only_if_missing=True):
                await store.set_limits()
        except StoreUnavailableError as error:
            log.debug("envelope_not_published", error=str(error))
        await asyncio.sleep(RETRY_S)


async def _observe(services: Services, observed: asyncio.Event) -> None:
    """Refresh the catalogue and the gauges of queues, workers and Redis. Set ``observed`` after the first success."""
    catalogue, gauges = services.catalogue, services.shared
    observer = Observer(services.store)
    away = False
    asked_at = float("-inf")
    while True:
        try:
            await catalogue.refresh()
            gauges.take_queues(await observer.queues(catalogue.pools))
            gauges.take_workers(map(worker_facts, catalogue.alive), catalogue.pools)
            if time.monotonic() - asked_at >= INFO_GAP_S:
                asked_at = time.monotonic()
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
