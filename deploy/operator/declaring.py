"""Which pools are declared to Penstock, so that calls wait while they have no worker. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.operator.pool import ModelPool
from deploy.operator.seen import Fleet, Seen
from deploy.operator.steps import Declare, Step, Undeclare


def declarations(pool: ModelPool, seen: Seen, fleet: Fleet) -> Iterator[Step]:
    """Yield what makes the declarations of a pool as they should be.

    A version that serves is declared while it is right that it has no worker: it sleeps, it starts, or its workers end to
    make room for new ones. Otherwise a pool without workers is a fault: calls are refused, and ``PenstockNoWorker`` fires.
    """
    serving = fleet.serving
    current = seen.of(serving)
    rolls = current is not None and current.fingerprint != pool.fingerprint
    if rolls and pool.surge:
        # Its workers serve what they served; what the next version serves is declared once that serves.
        yield from (Undeclare(one.id) for one in fleet.declared if one.id != serving)
        return
    scaling = pool.scaling
    slots = None if scaling is None else scaling.slots
    wanted = _waits(pool, seen, fleet, rolls=rolls)
    for one in fleet.declared:
        if one.id != serving or not wanted:
            yield Undeclare(one.id)
        elif (one.model, one.aliases, one.slots) == (pool.served_name, pool.aliases, slots):
            wanted = False  # it is there
    if wanted:
        yield Declare(serving, pool.served_name, pool.aliases, slots)


def _waits(pool: ModelPool, seen: Seen, fleet: Fleet, *, rolls: bool) -> bool:
    """Return whether calls should wait for the version that serves while it has no worker."""
    scaling, current = pool.scaling, seen.of(fleet.serving)
    least = pool.replicas if scaling is None else scaling.least
    if least == 0:
        return scaling is not None
    if not pool.surge and (rolls or (current is not None and not current.settled)):
        return True
    known = any(one.id == fleet.serving for one in fleet.declared)
    starts = known or current is None or current.replicas == 0
    return starts and not any(one.pool == fleet.serving for one in fleet.workers)
