"""The queues, as operators see and control them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker.lookups import JobLookups, known
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from jobs.states import JobState

_PURGE_STEP = 500


@dataclass(frozen=True, slots=True)
class LaneView:
    """One lane.

    Attributes:
        queued: jobs that wait in it.
        dispatched: of these, jobs whose message is ready for a worker.
        oldest_ms: milliseconds that the oldest has waited in it; None: none waits.
    """

    lane: Lane
    queued: int
    dispatched: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class TenantView:
    """A tenant's jobs in a pool: those that wait, and those that are dispatched or running."""

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
        starts_per_s: starts a second in the interactive lanes while others waited; None: not measured.
        bulk_starts_per_s: the same for the lane ``bulk``.
        run_ms: mean milliseconds of a run; None: not measured.
        lanes: first served first.
        tenants: tenants with jobs, the busiest first.
    """

    pool: str
    paused: bool
    running: int
    slots: int
    max_active: int | None
    starts_per_s: float | None
    bulk_starts_per_s: float | None
    run_ms: int | None
    lanes: tuple[LaneView, ...]
    tenants: tuple[TenantView, ...]


class QueueControl(JobLookups):
    """Views and control of the queues. Part of :class:`broker.jobs.JobStore`."""

    _settings: BrokerSettings
    retention_ms: int

    async def move(self, job_id: str, lane: Lane | None = None, *, top: bool = False) -> JobState | None:
        """Change a queued job's lane; with ``top`` make it the next of its lane.

        Returns:
            The job's state; a job that is not queued is not moved. None: there is no such job.
        """
        reply = await self.scripts.call("job/move", job_id, lane or "", int(top))
        return None if reply is None else JobState(reply)

    async def pause(self, pool: str, *, paused: bool) -> bool:
        """Pause or resume the dispatch to a pool's workers; running jobs continue. Return whether that changed anything."""
        return bool(await self.scripts.call("queue/pause", pool, int(paused)))

    async def purge(self, pool: str, lane: Lane) -> int:
        """Cancel the jobs that wait in a lane, and return how many."""
        purged = 0
        while count := await self.scripts.call("queue/purge", pool, lane, _PURGE_STEP, self.retention_ms):
            purged += count
        return purged

    async def set_limits(self) -> None:
        """Store ``max_active``, ``ageing_s`` and the tenants' bounds and weights from the settings, for all processes."""
        s = self._settings
        limits: dict[str, float | None] = {
            "max_active": s.max_active,
            "tenant_max_active": s.tenant_max_active,
            "ageing_ms": int(s.ageing_s * 1000),
        }
        for name, tenant in s.tenants.items():
            limits[f"max_active:{name}"] = tenant.max_active
            limits[f"weight:{name}"] = tenant.weight
        given: dict[Any, Any] = {name: value for name, value in limits.items() if value is not None}
        pipe = self.client.pipeline(transaction=True)
        pipe.delete(self.keys("limits"))
        if given:
            pipe.hset(self.keys("limits"), mapping=given)
        await self.execute(pipe.execute())

    async def outlook(self, pool: str, lane: Lane, tenant: str) -> tuple[int, int | None]:
        """Estimate for a new job: jobs before it, and milliseconds until its start (None: nothing was measured)."""
        position, eta_ms, _ = await self.scripts.call("queue/position", "", pool, lane, tenant)
        return position, known(eta_ms)

    async def queues(self, pools: Sequence[str]) -> tuple[PoolView, ...]:
        """Return the queues of these pools."""
        now_ms = await self.now_ms()
        return tuple([await self._pool(pool, now_ms) for pool in sorted(pools)])

    async def _pool(self, pool: str, now_ms: int) -> PoolView:
        pipe = self.client.pipeline(transaction=True)  # one moment for all counts
        pipe.sismember(self.keys("paused"), pool)
        pipe.hgetall(self.keys("rate", pool))
        pipe.hget(self.keys("limits"), "max_active")
        pipe.hgetall(self.keys("admitted", pool))
        pipe.hgetall(self.keys("waiting", pool))
        for lane in Lane:
            queue = self.keys("queue", pool, lane)
            pipe.zcard(self.keys("queued", queue))
            pipe.zcard(self.keys("window", queue))
            pipe.zrange(self.keys("queued", queue), 0, 0, withscores=True)
        paused, rate, max_active, admitted, waiting, *counts = await self.execute(pipe.execute())
        admitted = {name: int(count) for name, count in admitted.items()}
        waiting = {name: int(count) for name, count in waiting.items()}
        lanes = []
        for lane, queued, window, oldest in zip(Lane, *(counts[i::3] for i in range(3)), strict=True):
            age_ms = now_ms - int(oldest[0][1]) if oldest else None
            lanes.append(LaneView(lane, queued, window, age_ms))
        return PoolView(
            pool=pool,
            paused=bool(paused),
            running=sum(admitted.values()) - sum(lane.dispatched for lane in lanes),
            slots=int(rate.get("cap", 0)),
            max_active=None if max_active is None else int(max_active),
            starts_per_s=_per_s(rate.get("in"), rate.get("it")),
            bulk_starts_per_s=_per_s(rate.get("bn"), rate.get("bt")),
            run_ms=int(float(rate["run"])) if "run" in rate else None,
            lanes=tuple(lanes),
            tenants=_tenants(waiting, admitted),
        )


def _tenants(waiting: dict[str, int], admitted: dict[str, int]) -> tuple[TenantView, ...]:
    names = waiting.keys() | admitted.keys()
    views = [TenantView(name, waiting.get(name, 0), admitted.get(name, 0)) for name in names]
    return tuple(sorted(views, key=lambda view: (-view.queued - view.active, view.tenant)))


def _per_s(starts: Any, over_ms: Any) -> float | None:
    if starts is None or not float(over_ms):
        return None
    return float(starts) / float(over_ms) * 1000
