"""Ends the lease of a worker process that has ended, so that its jobs need not wait for the lease to run out."""

from __future__ import annotations

import asyncio
import platform
import time

from broker.connection import connect
from broker.errors import StoreUnavailableError
from broker.settings import BrokerSettings
from broker.store import JobStore

_TRY_EVERY_S = 0.5
_PATIENCE_S = 2.0


async def end_lease(redis_url: str, settings: BrokerSettings, pid: int) -> None:
    """End what leases a process of this machine held; the next round of any reaper takes its jobs over.

    The process must have ended: one that lives would lose its jobs. A worker that ended by itself has done this
    already; then there is nothing to do. While Redis is away this is tried until the lease has run out anyway.

    Args:
        redis_url: the server in use.
        settings: namespace and lease time.
        pid: the process id it had on this machine.

    Raises:
        StoreUnavailableError: Redis was away for the whole of it.
    """
    deadline = time.monotonic() + settings.lease_ttl_s
    # Tried again here, not by the client: a stop of everything does not wait for long.
    store = JobStore(connect(redis_url, retries=0, timeout_s=_PATIENCE_S), settings)
    try:
        while True:
            try:
                for worker in await store.workers():
                    if (worker["host"], worker["pid"]) == (platform.node(), pid):
                        await store.bury(worker["incarnation"])
            except StoreUnavailableError:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(_TRY_EVERY_S)
            else:
                return
    finally:
        await store.aclose()
