"""From a worker's settings to a member of its swap group, and onto the devices for the first time."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable

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
