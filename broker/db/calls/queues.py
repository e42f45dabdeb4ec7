"""The functions for those who look at queues and control them."""

from __future__ import annotations

from collections.abc import Mapping

from broker.db.calls.base import READS, Call
from jobs.outlook import Snapshot


class Look(Call[Snapshot]):
    """Look at a queued job, or (without ``id``) at the place that a new one would get.

    Attributes:
        most_tenants: how many waiting tenants are counted one by one; the rest is estimated by these. 0: no position.
    """

    flags = READS
    most_tenants: int
    id: str | None = None
    pool: str | None = None
    lane: str | None = None
    tenant: str | None = None


class NearestDeadlines(Call[list[tuple[str, str, float]]]):
    """Look for the first deadline of a waiting job in each of these lanes. Answers with pool, lane and milliseconds left.

    A lane is left out if no waiting job of it is among the 500 unfinished jobs with the first deadlines.

    Attributes:
        places: as ``<pool> <lane>``.
    """

    flags = READS
    places: list[str]


class Pause(Call[bool]):
    """Pause a pool: nothing is claimed from it. Or resume it. Answers whether that changed anything."""

    pool: str
    paused: bool
    by: str | None = None


class Unpoison(Call[int]):
    """Forget the kinds of requests that a pool refuses, as they killed its engines. Answers with their number."""

    pool: str
    by: str | None = None


class Purge(Call[int]):
    """Cancel those of these jobs that wait in a lane. Answers how many of them are cancelled now."""

    pool: str
    lane: str
    ids: list[str]
    retention_ms: int
    by: str | None = None


class SetLimits(Call[bool]):
    """Replace the bounds of all pools. Those of single tenants are in their records.

    Attributes:
        limits: ``max_active``, ``tenant_max_active``, ``ageing_ms``; ``turns_in_jobs``: 1;
            ``usage_rows_max``; ``usage_ms``: how long a day of usage is kept; ``audit_ms``, ``audit_most``: the same of the
            audit stream, and its most entries.
    """

    limits: Mapping[str, float]


class IndexTenants(Call[bool]):
    """Add objects to the indexes by tenant, unless their records are gone.

    Attributes:
        room: ``jobs``, ``files`` or ``batches``.
    """

    room: str
    ids: list[str]
