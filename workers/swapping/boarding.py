"""From a worker's settings to a member of its swap group, and onto the devices for the first time."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Coroutine
from typing import Any

from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.jobs import JobStore
from broker.swapping import SwapGroup
from jobs.swapping import Rules
from workers.engines.base import EngineStartError
from workers.settings import WorkerSettings
from workers.swapping.member import LOOK_S, SwapMember


def member_for(
    settings: WorkerSettings,
    store: JobStore,
    worker: str,
    leaves: Callable[[], bool],
    changed: Callable[[], None],
) -> SwapMember | None:
    """Return this worker as a member of its swap group; None: it has none.

    Workers on other devices of the machine are another group, even if theirs has the same name.

    Args:
        worker: its incarnation.
        leaves: says whether it ends.
        changed: called when its state has changed.
    """
    if settings.swap_group is None:
        return None
    devices = settings.gpus or "cpu"
    group = SwapGroup(
        store,
        machine=platform.node(),
        group=f"{settings.swap_group}:{devices}",
        worker=worker,
        pool=settings.pool,
        awake=settings.swap_awake,
        every_s=LOOK_S * 0.8,
        lease_ttl_s=settings.lease_ttl_s,
    )
    rules = Rules(settings.swap_awake, settings.swap_min_stay_s * 1000, settings.swap_max_wait_s * 1000)
    return SwapMember(
        store,
        group,
        rules,
        worker,
        heartbeat_s=settings.heartbeat_s,
        reap_interval_s=settings.reap_interval_s,
        leaves=leaves,
        changed=changed,
    )


async def board(member: SwapMember) -> asyncio.Task[None]:
    """Wait until the devices are the member's; see :meth:`SwapMember.board`.

    Raises:
        EngineStartError: Redis cannot be reached.
    """
    try:
        return await member.board()
    except StoreUnavailableError as error:
        msg = "cannot reach Redis to take the devices of the swap group"
        raise EngineStartError(f"{msg}: {error}") from error
    except StoreFaultError as error:
        raise EngineStartError(str(error)) from error


async def load_under(lease: asyncio.Task[None], load: Coroutine[Any, Any, None]) -> None:
    """Load the model while a task prolongs the lease that the devices go with.

    Raises:
        EngineStartError: it cannot be loaded, or the task has ended, so that the devices may become another's.
    """
    loading = asyncio.create_task(load)
    try:
        await asyncio.wait({lease, loading}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            why = "cancelled" if lease.cancelled() else repr(lease.exception())
            msg = f"the lease of a member of a swap group is not prolonged any more, so its load is given up: {why}"
            raise EngineStartError(msg)
    finally:
        loading.cancel()
        await asyncio.wait({loading})
    loading.result()
