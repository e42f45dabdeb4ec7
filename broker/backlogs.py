"""How much work each pool has, for autoscalers: jobs, rows of batches, and the first deadline. No transitions."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from broker.batches import open_chunks_of
from broker.db.calls.queues import NearestDeadlines
from broker.jobs import StorePart
from broker.queues import PoolView
from jobs.batches import BatchStatus
from jobs.facts import WorkerFacts
from jobs.lanes import Lane
from jobs.scaling import Backlog, Due
from jobs.states import JobState

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Rows:
    """The batches of each pool.

    Attributes:
        left: rows that are not done.
        due_ms: when the first window of such a batch closes.
        waiting: chunks among the jobs that wait; ``running``: among those that run. Their rows count in their place.
    """

    left: Counter[str] = field(default_factory=Counter)
    due_ms: dict[str, int] = field(default_factory=dict)
    waiting: Counter[str] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)


class Backlogs(StorePart):
    """Reads the backlogs of pools.

    Attributes:
        most_batches: of how many active batches the rows are counted.
    """

    most_batches = 1000
    _cut = False

    async def read(
        self, views: Sequence[PoolView], workers: Iterable[WorkerFacts], pool_of: Callable[[str], str | None]
    ) -> dict[str, Backlog]:
        """Return the backlog of each of these pools.

        Args:
            views: of their queues.
            workers: the live workers.
            pool_of: returns the pool that runs a model's batches; None: none does.
        """
        workers = tuple(workers)
        rows = await self._rows(pool_of)
        busy = [f"{view.pool} {lane.lane}" for view in views for lane in view.lanes if lane.queued]
        due: dict[str, list[tuple[Lane, float]]] = defaultdict(list)
        for pool, lane, left_ms in await self._call(NearestDeadlines(busy)) if busy else ():
            due[pool].append((Lane(lane), left_ms))
        now_ms = await self._store.now_ms() if rows.due_ms else 0
        for pool, at_ms in rows.due_ms.items():
            due[pool].append((Lane.BULK, at_ms - now_ms))
        return {
            view.pool: _backlog(view, rows, [one for one in workers if one.pool == view.pool], due[view.pool])
            for view in views
        }

    async def _rows(self, pool_of: Callable[[str], str | None]) -> _Rows:
        found, keys = _Rows(), self._keys
        ids = sorted(await self._execute(self._client.smembers(keys("batches_active"))))
        cut = len(ids) > self.most_batches
        if cut and not self._cut:
            log.warning("backlog_cut", batches=len(ids), counted=self.most_batches)
        self._cut, ids = cut, ids[: self.most_batches]
        if not ids:
            return found
        pipe = self._client.pipeline(transaction=False)
        for ident in ids:
            pipe.hmget(
                keys("batch", ident), "model", "status", "paused", "expires", "total", "completed", "failed"
            )
            pipe.hgetall(keys("batch_open", ident))
        replies = await self._execute(pipe.execute())
        jobs = []
        for (model, status, paused, expires, *counts), opened in zip(
            replies[::2], replies[1::2], strict=True
        ):
            jobs += [chunk.job for chunk in open_chunks_of(opened).values() if chunk.job]
            pool = pool_of(model or "")
            total, completed, failed = (int(count or 0) for count in counts)
            left = total - completed - failed
            if pool is None or status != BatchStatus.IN_PROGRESS or paused or left <= 0:
                continue
            found.left[pool] += left
            found.due_ms[pool] = min(found.due_ms.get(pool, int(expires)), int(expires))
        for state, pool in await self._states(jobs):
            if state == JobState.QUEUED:
                found.waiting[pool] += 1
            elif state == JobState.RUNNING:
                found.running[pool] += 1
        return found

    async def _states(self, jobs: Sequence[str]) -> list[tuple[str, str]]:
        """Return state and pool of those of these jobs that are there."""
        pipe = self._client.pipeline(transaction=False)
        for job in jobs:
            pipe.hmget(self._keys("job", job), "state", "pool")
        replies = await self._execute(pipe.execute()) if jobs else []
        return [(state, pool) for state, pool in replies if state]


def _backlog(
    view: PoolView, rows: _Rows, workers: Sequence[WorkerFacts], due: Iterable[tuple[Lane, float]]
) -> Backlog:
    pool = view.pool
    waiting = {lane.lane: lane.queued for lane in view.lanes}
    waiting[Lane.BULK] = max(0, waiting[Lane.BULK] - rows.waiting[pool])
    jobs = max(0, view.running - rows.running[pool])
    # What workers report beyond jobs is rows on their engines. They report it some seconds later.
    on_engines = min(rows.left[pool], max(0, sum(one.active for one in workers) - jobs))
    waiting[Lane.BULK] += rows.left[pool] - on_engines
    ages = [lane.oldest_ms for lane in view.lanes if lane.oldest_ms is not None]
    return Backlog(
        queued=sum(waiting.values()),
        running=jobs + on_engines,
        slots=view.slots,
        workers=len(workers),
        oldest_s=max(ages, default=0) / 1000,
        dues=tuple(_due(view, waiting, lane, left_ms / 1000) for lane, left_ms in due),
    )


def _due(view: PoolView, waiting: Mapping[Lane, int], lane: Lane, in_s: float) -> Due:
    """Return a deadline of a lane, with the jobs that wait up to it.

    If only one of the two mean runs is known, that of bulk or that of the other lanes, it is used for both.
    """
    upto = [waiting[one] for one in Lane][: list(Lane).index(lane) + 1]
    bulk = waiting[Lane.BULK] if lane is Lane.BULK else 0
    others = sum(upto) - bulk
    known = [one for one in (view.run_ms, view.bulk_run_ms) if one is not None]
    if not known:
        return Due(in_s, sum(upto))
    run_ms = known[0] if view.run_ms is None else view.run_ms
    bulk_ms = known[-1] if view.bulk_run_ms is None else view.bulk_run_ms
    return Due(in_s, sum(upto), (others * run_ms + bulk * bulk_ms) / max(1, sum(upto)) / 1000)
