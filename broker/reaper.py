"""The reaper's loop. Every api and worker process runs one; concurrent rounds do no harm."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.jobs import JobStore
from jobs.facts import Reaped
from monitoring import failpoints

log = structlog.get_logger(__name__)

_SWEEP_S = 60.0
"""Time between two looks for function libraries of versions that no worker has any more."""


async def reap_forever(
    store: JobStore, interval_s: float, on_round: Callable[[Reaped], None] | None = None
) -> None:
    """Reap every ``interval_s`` seconds (with a tenth of jitter) until cancelled; wait while Redis is unreachable.

    Args:
        on_round: gets the result of each round, for metrics.
    """
    away, swept_s = False, time.monotonic()
    while True:
        await asyncio.sleep(interval_s * random.uniform(0.9, 1.1))
        failpoints.hit("reaper.before_round")
        try:
            done = await store.reap(interval_s)
            if time.monotonic() - swept_s >= _SWEEP_S:
                swept_s = time.monotonic()
                if dropped := await store.drop_unused_libraries():
                    log.info("libraries_dropped", libraries=dropped)
        except StoreUnavailableError as error:
            if not away:
                log.warning("redis_unavailable", error=str(error))
            away = True
            continue
        except StoreFaultError:  # it is reported; the steps before the one that failed were taken
            continue
        if away:
            log.info("redis_back")
            away = False
        if done.requeued or done.failed or done.expired:
            log.info(
                "reaped",
                requeued=done.requeued,
                failed=done.failed,
                expired=done.expired,
                requeued_jobs=list(done.requeued_ids),
                failed_jobs=list(done.failed_ids),
            )
        if on_round is not None:
            on_round(done)
