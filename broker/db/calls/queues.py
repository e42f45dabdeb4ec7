"""The functions for those who look at queues and control them."""

from __future__ import annotations

from collections.abc import Mapping

from broker.db.calls.base import READS, Answer, Call


class Outlook(Answer):
    """Where a job stands, or would; and the facts of its pool that :mod:`jobs.outlook` estimates from.

    Attributes:
        position: jobs before it; None: it is not queued, or waits for something else than its turn.
        rank: how many of these are its own tenant's.
        lane: its lane; of a follower, its leader's.
        active: jobs that run; ``bulk``: of these, bulk. ``tenant_active`` and ``tenant_bulk``: of its tenant.
        slots: jobs that the live workers run at once; ``bulk_slots``: that they leave to bulk.
        run_ms: mean run of the other lanes' jobs; ``bulk_run_ms``: of bulk; None: not measured.
        most: the bound of the pool; ``tenant_most``: of the tenant.
    """

    position: int | None = None
    rank: int = 0
    lane: str = ""
    paused: bool = False
    active: int = 0
    bulk: int = 0
    tenant_active: int = 0
    tenant_bulk: int = 0
    slots: int | None = None
    bulk_slots: int = 0
    run_ms: float | None = None
    bulk_run_ms: float | None = None
    most: int | None = None
    tenant_most: int | None = None


class Look(Call[Outlook]):
    """Look at a queued job, or (without ``id``) at the place that a new one would get."""

    flags = READS
    id: str | None = None
    pool: str | None = None
    lane: str | None = None
    tenant: str | None = None
    tokens: int | None = None


class Pause(Call[bool]):
    """Pause a pool: nothing is claimed from it. Or resume it. Answers whether that changed anything."""

    pool: str
    paused: bool


class Purge(Call[int]):
    """Cancel jobs that wait in a lane, those between two attempts too. Answers how many; fewer than ``most``: that is all."""

    pool: str
    lane: str
    most: int
    retention_ms: int


class SetLimits(Call[bool]):
    """Replace the bounds and weights for all pools: ``max_active``, ``tenant_max_active``, ``ageing_ms``, ``turns``; by tenant
    ``max_active:NAME`` and ``weight:NAME``.
    """

    limits: Mapping[str, float]
