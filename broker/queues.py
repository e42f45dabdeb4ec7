"""The queues, as operators see and control them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from broker.db.calls.jobs import Move
from broker.db.calls.queues import Pause, Purge, SetLimits, Unpoison
from broker.lookups import JobLookups
from broker.settings import BrokerSettings
from jobs.access import Actor, encoded
from jobs.ids import made_ms
from jobs.lanes import Lane
from jobs.outlook import start_ms
from jobs.states import JobState

_PURGE_STEP = 100


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane.

    Attributes:
        queued: jobs that wait in it.
        oldest_ms: milliseconds that the oldest has waited in it; None: none waits.
    """

    lane: Lane
    queued: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant's jobs in a pool: those that wait, and those that run."""

    tenant: str
    queued: int
    active: int


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool.

    Attributes:
        paused: no job is dispatched to its workers.
        running: jobs on its engines.
        slots: jobs that its live workers take at once.
        run_ms: mean milliseconds of a run in the other lanes; None: not measured.
        bulk_run_ms: the same of the lane ``bulk``.
        lanes: first served first.
        tenants: tenants with jobs, the busiest first.
    """

    pool: str
    paused: bool
    running: int
    slots: int
    max_active: int | None
    run_ms: int | None
    bulk_run_ms: int | None
    lanes: tuple[LaneView, ...]
    tenants: tuple[TenantView, ...]


class QueueControl(JobLookups):
    """Views and control of the queues. Part of :class:`broker.jobs.JobStore`."""

    _settings: BrokerSettings
    retention_ms: int

    async def move(
        self,
        job_id: str,
        lane: Lane | None = None,
        *,
        top: bool = False,
        owner: str | None = None,
        by: Actor | None = None,
    ) -> JobState | None:
        """Change a queued job's lane; with ``top`` make it the next of its lane.

        Args:
            by: who asked, for the audit stream, if the job may be another's.

        Returns:
            The job's state; a job that is not queued is not moved. None: there is no such job of ``owner``.
        """
        call = Move(id=job_id, lane=lane and lane.value, top=top or None, owner=owner, by=encoded(by))
        state = await self.functions.call(call)
        return None if state is None else JobState(state)

    async def pause(self, pool: str, *, paused: bool, by: Actor | None = None) -> bool:
        """Pause or resume a pool: no job of it is claimed; running jobs continue. Return whether that changed anything."""
        return await self.functions.call(Pause(pool=pool, paused=paused, by=encoded(by)))

    async def unpoison(self, pool: str, *, by: Actor | None = None) -> int:
        """Forget the kinds of requests that killed engines of a pool (:mod:`jobs.poison`), and return their number."""
        return await self.functions.call(Unpoison(pool=pool, by=encoded(by)))

    async def purge(self, pool: str, lane: Lane, *, by: Actor | None = None) -> int:
        """Cancel the jobs that wait in a lane, and return how many."""
        purged = 0
        call = Purge(pool=pool, lane=lane.value, ids=[], retention_ms=self.retention_ms, by=encoded(by))
        for waiting in (self._last_queued, self._delayed):
            while ids := await waiting(pool, lane):
                cancelled = await self.functions.call(msgspec.structs.replace(call, ids=ids))
                if not cancelled:
                    break
                purged += cancelled
                call = msgspec.structs.replace(call, by=None)  # it is in the audit stream
        return purged

    async def _last_queued(self, pool: str, lane: Lane) -> list[str]:
        """Read some jobs at the ends of a lane's backlogs: the last first, so that none of them is claimed meanwhile."""
        found: list[str] = []
        for tenant in await self.execute(self.client.zrevrange(self.keys("turns", pool, lane), 0, -1)):
            left = _PURGE_STEP - len(found)
            found += await self.execute(
                self.client.zrevrange(self.keys("backlog", pool, lane, tenant), 0, left - 1)
            )
            if len(found) >= _PURGE_STEP:
                break
        return found

    async def _delayed(self, pool: str, lane: Lane) -> list[str]:
        """Read some jobs of a lane that wait for their next attempt."""
        first = 0
        while ids := await self.execute(
            self.client.zrange(self.keys("delayed"), first, first + _PURGE_STEP - 1)
        ):
            first += len(ids)
            pipe = self.client.pipeline(transaction=False)
            for job_id in ids:
                pipe.hmget(self.keys("job", job_id), "pool", "lane")
            places = await self.execute(pipe.execute())
            if here := [job_id for job_id, place in zip(ids, places, strict=True) if place == [pool, lane]]:
                return here
        return []

    async def set_limits(self, *, only_if_missing: bool = False) -> bool:
        """Store ``max_active``, ``tenant_max_active``, ``ageing_s`` and ``turns`` from the settings, for all processes.

        Args:
            only_if_missing: keep those that are stored, by whichever process.

        Returns:
            Whether they were stored now.
        """
        if only_if_missing and await self.execute(self.client.hexists(self.keys("limits"), "ageing_ms")):
            return False
        s = self._settings
        limits: dict[str, float | None] = {
            "max_active": s.max_active,
            "tenant_max_active": s.tenant_max_active,
            "ageing_ms": int(s.ageing_s * 1000),
            "turns_in_jobs": 1 if s.turns == "jobs" else None,
            "usage_rows_max": s.usage_rows_max,
            "usage_ms": s.usage_retention_days * 86_400_000,
            "audit_ms": s.audit_retention_days * 86_400_000,
            "audit_most": s.audit_max_entries,
        }
        given = {name: float(value) for name, value in limits.items() if value is not None}
        await self.functions.call(SetLimits(limits=given))
        return True

    async def outlook(self, pool: str, lane: Lane, tenant: str) -> tuple[int | None, int | None]:
        """Estimate for a new job: jobs before it, and milliseconds until its start (None: nothing was measured)."""
        facts = await self.look_ahead(pool, lane, tenant)
        return facts.position, start_ms(facts)

    async def queues(self, pools: Sequence[str]) -> tuple[PoolView, ...]:
        """Return the queues of these pools."""
        if not pools:
            return ()
        pools = sorted(pools)
        pipe = self.client.pipeline(transaction=True)  # one moment for all counts
        pipe.time()
        pipe.hget(self.keys("limits"), "max_active")
        for pool in pools:
            for name in ("pool", "active", "attached", "slots"):
                pipe.hgetall(self.keys(name, pool))
            for lane in Lane:
                pipe.zrange(self.keys("turns", pool, lane), 0, -1)
        (seconds, micros), most, *rows = await self.execute(pipe.execute())
        step = 4 + len(Lane)
        parts = [rows[i : i + step] for i in range(0, len(rows), step)]
        waiting = await self._waiting(
            {pool: dict(zip(Lane, part[4:], strict=True)) for pool, part in zip(pools, parts, strict=True)}
        )
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        bound = None if most is None else int(float(most))
        return tuple(
            _pool(pool, part[:4], waiting[pool], bound, now_ms)
            for pool, part in zip(pools, parts, strict=True)
        )

    async def _waiting(
        self, tenants: Mapping[str, Mapping[Lane, list[str]]]
    ) -> dict[str, dict[tuple[Lane, str], Backlog]]:
        """Read the backlogs of these tenants: how long each is, and its first job. ``""`` has the jobs before all turns."""
        places = [
            (pool, lane, name)
            for pool, lanes in tenants.items()
            for lane, names in lanes.items()
            for name in names
        ]
        pipe = self.client.pipeline(transaction=False)
        for place in places:
            pipe.zcard(self.keys("backlog", *place))
            pipe.zrange(self.keys("backlog", *place), 0, 0)
        replies = await self.execute(pipe.execute()) if places else []
        found: dict[str, dict[tuple[Lane, str], Backlog]] = {pool: {} for pool in tenants}
        for (pool, lane, name), count, first in zip(places, replies[::2], replies[1::2], strict=True):
            if first:
                found[pool][lane, name] = Backlog(count, made_ms(first[0]))
        return found


@dataclass(frozen=True, slots=True)
class Backlog:
    """A tenant's jobs that wait in a lane: how many, and when the first was made."""

    count: int
    since_ms: int


def _pool(
    pool: str,
    hashes: Sequence[Mapping[str, str]],
    waiting: Mapping[tuple[Lane, str], Backlog],
    most: int | None,
    now_ms: int,
) -> PoolView:
    facts, active, attached, slots = hashes
    queued: Counter[str] = Counter()
    for (_, tenant), backlog in waiting.items():
        queued[tenant] += backlog.count
    for place, count in attached.items():
        queued[place.partition(" ")[2]] += int(count)
    lanes = []
    for lane in Lane:
        since = [backlog.since_ms for (of, _), backlog in waiting.items() if of is lane]
        depth = sum(int(facts.get(f"{name}:{lane}", 0)) for name in ("depth", "attached"))
        lanes.append(LaneView(lane, depth, max(0, now_ms - min(since)) if since else None))
    return PoolView(
        pool=pool,
        paused="paused" in facts,
        running=int(facts.get("active", 0)),
        slots=sum(int(said.split()[0]) for said in slots.values()),
        max_active=most,
        run_ms=int(float(facts["run"])) if "run" in facts else None,
        bulk_run_ms=int(float(facts["bulk_run"])) if "bulk_run" in facts else None,
        lanes=tuple(lanes),
        tenants=_tenants(queued, {name: int(count) for name, count in active.items()}),
    )


def _tenants(waiting: Mapping[str, int], active: Mapping[str, int]) -> tuple[TenantView, ...]:
    views = [
        TenantView(name, waiting.get(name, 0), active.get(name, 0))
        for name in waiting.keys() | active.keys()
        if name
    ]
    views = [view for view in views if view.queued or view.active]
    return tuple(sorted(views, key=lambda view: (-view.queued - view.active, view.tenant)))
