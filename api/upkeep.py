"""What the api does by itself while it serves: Celery's envelope, the catalogue, queue depths, the reaper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from api.services import Services
from broker.envelope import learn_at
from broker.errors import StoreUnavailableError
from broker.reaper import reap_forever
from broker.store import Reaped
from monitoring.metrics import REAPER_ACTIONS

log = structlog.get_logger(__name__)

RETRY_S = 1.0
START_PATIENCE_S = 2.0


@asynccontextmanager
async def upkeep(services: Services) -> AsyncIterator[None]:
    """Run the background tasks while the block runs.

    Waits a moment for Redis, so that the first request finds everything in place; without Redis the api
    serves all the same, says that it is not ready, and goes on as soon as Redis is there.
    """
    settings = services.settings
    looked, published = asyncio.Event(), asyncio.Event()
    hub = asyncio.create_task(_follow_hub(services), name="hub")
    tasks = [
        hub,
        asyncio.create_task(_keep_envelope(services, published), name="envelope"),
        asyncio.create_task(_look_around(services, looked), name="look_around"),
        asyncio.create_task(
            reap_forever(services.store, settings.reap_interval_s, lambda done: _count(services, done)),
            name="reaper",
        ),
    ]
    with suppress(TimeoutError):
        async with asyncio.timeout(START_PATIENCE_S):
            await asyncio.gather(asyncio.shield(hub), looked.wait(), published.wait())
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await services.aclose()


async def _follow_hub(services: Services) -> None:
    try:
        await services.hub.start()
    except TimeoutError:  # the hub goes on trying
        log.warning("hub_waits_for_redis")


async def _keep_envelope(services: Services, published: asyncio.Event) -> None:
    """Learn Celery's message format once, and see to it that Redis has it; set ``published`` when it does."""
    settings, store = services.settings, services.store
    envelope: str | None = None
    while True:
        try:
            if envelope is None:
                learned = await asyncio.to_thread(learn_at, settings.redis_url, settings.namespace)
                await store.set_envelope(learned)
                envelope = learned
                services.envelope_ready = True
                published.set()
                log.info("envelope_published")
            else:  # a Redis that came back empty needs it again; a newer process's is left alone
                await store.set_envelope(envelope, only_if_missing=True)
        except StoreUnavailableError as error:
            log.debug("envelope_not_published", error=str(error))
        await asyncio.sleep(RETRY_S)


async def _look_around(services: Services, looked: asyncio.Event) -> None:
    """Refresh the catalogue and the queue depths; set ``looked`` after the first success."""
    catalogue, store, gauge = services.catalogue, services.store, services.metrics.queue_depth
    away = False
    while True:
        try:
            await catalogue.refresh()
            for (pool, lane), depth in (await store.depths(catalogue.pools)).items():
                gauge.labels(pool, lane.value).set(depth)
        except StoreUnavailableError as error:
            if not away:
                log.warning("redis_unavailable", error=str(error))
            away = True
        else:
            away = False
            looked.set()
        await asyncio.sleep(services.settings.catalogue_refresh_s)


def _count(services: Services, done: Reaped) -> None:
    for action in REAPER_ACTIONS:
        services.metrics.reaped.labels(action).inc(getattr(done, action))
