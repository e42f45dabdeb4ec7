"""The leases of processes of this machine: waiting until they have one, and ending it when they have ended."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, TypeAlias

from broker.coordinators import Coordinators
from broker.db.client import connect
from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from broker.settings import BrokerSettings

Pids: TypeAlias = Callable[[], Collection[int]]
Alive: TypeAlias = Callable[[Collection[int]], None]

_TRY_EVERY_S = 0.5
_PATIENCE_S = 2.0


async def until_alive(redis_url: str, settings: BrokerSettings, pids: Pids, alive: Alive) -> None:
    """Wait until each of these processes of this machine has a live lease, which means that it takes jobs.

    While Redis is away it waits on.

    Args:
        pids: asked at each look: a process that ended may have a successor by then.
        alive: called at each look with those that have a lease.
    """
    await _until(redis_url, settings, pids, alive, JobStore.workers)


async def until_coordinated(redis_url: str, settings: BrokerSettings, pids: Pids, alive: Alive) -> None:
    """Wait as :func:`until_alive` does, for coordinators."""
    await _until(redis_url, settings, pids, alive, lambda store: Coordinators(store).alive())


async def _until(
    redis_url: str,
    settings: BrokerSettings,
    pids: Pids,
    alive: Alive,
    look: Callable[[JobStore], Awaitable[list[dict[str, Any]]]],
) -> None:
    async with _store(redis_url, settings) as store:
        while True:
            with suppress(StoreUnavailableError):
                found = {one["pid"] for one in await look(store) if one["host"] == platform.node()}
                wanted = set(pids())
                alive(found & wanted)
                if wanted <= found:
                    return
            await asyncio.sleep(_TRY_EVERY_S)


async def live_workers(settings: BrokerSettings) -> list[dict[str, Any]]:
    """Return the workers of this machine that have a live lease. One try.

    Raises:
        StoreUnavailableError: Redis did not answer.
    """
    async with _store(settings.redis_url, settings) as store:
        return [worker for worker in await store.workers() if worker["host"] == platform.node()]


async def end_lease(redis_url: str, settings: BrokerSettings, pid: int) -> None:
    """End what leases a process of this machine held, as a worker or as a coordinator.

    The next round of any reaper takes over a worker's jobs, and the next coordinator the other's batches. The process
    must have ended: one that lives would lose them. One that ended by itself has done this already; then there is
    nothing to do. While Redis is away this is tried until the lease has run out anyway.

    Raises:
        StoreUnavailableError: Redis was away for the whole of it.
    """
    deadline = time.monotonic() + settings.lease_ttl_s
    async with _store(redis_url, settings) as store:
        while True:
            try:
                for worker in await store.workers():
                    if (worker["host"], worker["pid"]) == (platform.node(), pid):
                        await store.bury(worker["incarnation"])
                coordinators = Coordinators(store)
                for one in await coordinators.alive():
                    if (one["host"], one["pid"]) == (platform.node(), pid):
                        await coordinators.bury(one["id"])
            except StoreUnavailableError:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(_TRY_EVERY_S)
            else:
                return


async def end_leases_of_the_dead(redis_url: str, settings: BrokerSettings) -> None:
    """End what leases were left in a server of our own by processes that were killed together with it.

    Only processes of this machine use that server. Those that do not run any more would be waited for, and a week
    later still: the reaper cannot tell their absence from that of the server.

    Raises:
        StoreUnavailableError: the server is away.
    """
    async with _store(redis_url, settings) as store:
        for worker in await store.workers(ended=True):
            if not _runs(worker["pid"]):
                await store.bury(worker["incarnation"])
        for incarnation in await store.forgotten():
            await store.bury(incarnation)
        coordinators = Coordinators(store)
        for one in await coordinators.alive():
            if not _runs(one["pid"]):
                await coordinators.bury(one["id"])


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    try:  # Linux: one that has ended, and that a slow or absent init has not reaped, runs no more
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (OSError, IndexError):  # no /proc, or reaped just now: then the lease is waited for
        return True


def _store(redis_url: str, settings: BrokerSettings) -> aclosing[JobStore]:
    # Tried again here, not by the client: a stop of everything does not wait for long.
    return aclosing(JobStore(connect(redis_url, retries=0, timeout_s=_PATIENCE_S), settings))
