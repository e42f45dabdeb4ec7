"""Work under a lease: it runs for as long as the lease is kept, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from broker.db.errors import StoreUnavailableError

log = structlog.get_logger(__name__)


async def under_lease(
    work: Coroutine[Any, Any, None], prolong: Callable[[], Awaitable[bool]], lease_s: float, batch: str
) -> bool:
    """Run work while its lease, which the caller has taken, is kept.

    While Redis is away the work continues: nobody else can take the lease either.

    Args:
        work: what to run. It is cancelled when the lease is lost.
        prolong: prolongs the lease; False: another process has it.
        lease_s: its length, in seconds; it is prolonged three times within that.
        batch: the batch that it is about, for the log.

    Returns:
        Whether the work ended by itself; what it raised is raised.
    """
    doing = asyncio.create_task(work, name=f"work on {batch}")
    keeping = asyncio.create_task(_keep(prolong, lease_s / 3, batch), name=f"lease of {batch}")
    try:
        await asyncio.wait({doing, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
        return doing.done()
    finally:
        for task in (doing, keeping):
            task.cancel()
        await asyncio.gather(doing, keeping, return_exceptions=True)


async def _keep(prolong: Callable[[], Awaitable[bool]], interval_s: float, batch: str) -> None:
    """Prolong a lease; return when it is lost."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            if not await prolong():
                return
        except StoreUnavailableError as error:
            log.debug("lease_not_prolonged", batch=batch, error=str(error))
