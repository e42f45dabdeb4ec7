"""Listing jobs, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from broker.db.errors import StoreFaultError
from broker.lookups import JobLookups
from broker.records import FIELDS, to_job
from jobs.failures import FailureCode
from jobs.ids import made_ms
from jobs.lanes import Lane
from jobs.model import Failed, Job
from jobs.states import JobState

_MOST_EXAMINED = 1000
_STEP = 100
_MOST_TENANTS = 20
"""For the positions of a whole page; see :data:`broker.lookups.MOST_TENANTS`."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, and the cursor of the next page; None: this is the last."""

    jobs: tuple[Job, ...]
    cursor: str | None


DeathCode: TypeAlias = FailureCode | Literal["expired"]
"""Why a dead job is one."""


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """Dead jobs of a model that ended for the same reason. ``latest_ms``: when the last of them did."""

    code: str
    model: str
    jobs: int
    latest_ms: int


@dataclass(frozen=True, slots=True)
class DeadGroups:
    """The groups. ``more``: there are dead jobs that were not looked at."""

    groups: tuple[DeadGroup, ...]
    more: bool


class JobListings(JobLookups):
    """Lists of jobs. A page reads at most 1,000 records: it may hold fewer than ``limit`` and have a cursor.

    The list of an ``owner`` walks an index of its own jobs alone: other tenants' jobs cost it nothing, and tell it nothing.

    Every method raises ``ValueError`` for a cursor that it did not make.
    """

    async def list_jobs(
        self,
        *,
        state: JobState | None = None,
        model: str | None = None,
        lane: Lane | None = None,
        pool: str | None = None,
        created_after_ms: int | None = None,
        created_before_ms: int | None = None,
        limit: int = 20,
        cursor: str | None = None,
        newest_first: bool = True,
        owner: str | None = None,
    ) -> Page:
        """List jobs by creation time, the queued ones with their positions."""

        def wanted(job: Job) -> bool:
            queue = (lane is None or job.lane is lane) and (pool is None or job.pool == pool)
            return (state is None or job.state is state) and (model is None or job.model == model) and queue

        low = float("-inf") if created_after_ms is None else created_after_ms
        high = float("inf") if created_before_ms is None else created_before_ms
        index = self.keys("jobs") if owner is None else self.keys("jobs_of", owner)
        page = await self._page(index, wanted, low, high, limit, cursor, newest_first=newest_first)
        placed = (self._placed(job, _MOST_TENANTS) for job in page.jobs)
        return Page(tuple(await asyncio.gather(*placed)), page.cursor)

    async def list_chats(
        self,
        *,
        owner: str,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 20,
        after: str | None = None,
        newest_first: bool = False,
    ) -> Page:
        """List a tenant's stored chat completions by their creation.

        Args:
            owner: the tenant.
            metadata: pairs that each must have.
            after: the job before the page.
        """

        def wanted(job: Job) -> bool:
            alike = metadata is None or metadata.items() <= job.metadata.items()
            return job.state is JobState.SUCCEEDED and (model is None or job.model == model) and alike

        index, cursor = self.keys("chats_of", owner), None
        if after is not None:
            score = await self.execute(self.client.zscore(index, after))
            cursor = _cursor((made_ms(after) if score is None else int(score), after))
        bounds = float("-inf"), float("inf")
        return await self._page(index, wanted, *bounds, limit, cursor, newest_first=newest_first)

    async def list_dead(
        self,
        *,
        code: DeathCode | None = None,
        model: str | None = None,
        limit: int = 20,
        cursor: str | None = None,
        owner: str | None = None,
    ) -> Page:
        """List jobs that failed or expired and were not retried, by their end, the latest first.

        Args:
            code: only jobs that failed with this code, or expired.
        """

        def wanted(job: Job) -> bool:
            return (code is None or _death(job) == code) and (model is None or job.model == model)

        index = self.keys("dead") if owner is None else self.keys("dead_of", owner)
        bounds = float("-inf"), float("inf")
        return await self._page(index, wanted, *bounds, limit, cursor, newest_first=True)

    async def group_dead(self, *, owner: str | None = None) -> DeadGroups:
        """Count the latest 1,000 dead jobs by failure code and model, the largest group first."""
        page = await self.list_dead(limit=_MOST_EXAMINED, owner=owner)
        groups: dict[tuple[str, str], DeadGroup] = {}
        for job in page.jobs:
            code, ended_ms = _death(job), job.timings.finished_ms or 0
            known = groups.get((code, job.model), DeadGroup(code, job.model, 0, 0))
            latest_ms = max(known.latest_ms, ended_ms)
            groups[code, job.model] = DeadGroup(code, job.model, known.jobs + 1, latest_ms)
        found = sorted(groups.values(), key=lambda group: (-group.jobs, group.code, group.model))
        return DeadGroups(tuple(found), more=page.cursor is not None)

    async def _page(
        self,
        index: str,
        wanted: Callable[[Job], bool],
        low: float,
        high: float,
        limit: int,
        cursor: str | None,
        *,
        newest_first: bool,
    ) -> Page:
        """Walk an index of job ids by score, and by id if scores are equal."""
        at: tuple[int, str] | None = None
        if cursor is not None:
            score, _, last = cursor.partition("_")
            at = (int(score), last)
            low, high = (low, at[0]) if newest_first else (at[0], high)
        find = self.client.zrevrangebyscore if newest_first else self.client.zrangebyscore
        bounds = (high, low) if newest_first else (low, high)
        found: list[tuple[tuple[int, str], Job]] = []
        offset = examined = 0
        last_seen = at
        while examined < _MOST_EXAMINED:
            rows: list[Any] = await self.execute(
                find(index, *bounds, start=offset, num=_STEP, withscores=True)
            )
            offset += len(rows)
            entries = [(int(score), job_id) for job_id, score in rows]
            if at is not None:
                entries = [e for e in entries if (e < at if newest_first else e > at)]
            pipe = self.client.pipeline(transaction=False)
            for _, job_id in entries:
                pipe.hmget(self.keys("job", job_id), list(FIELDS))
            records = await self.execute(pipe.execute(raise_on_error=False))
            for entry, values in zip(entries, records, strict=True):
                examined += 1
                last_seen = entry
                job = self._job_of(entry[1], values)
                if job is not None and wanted(job):
                    found.append((entry, job))
                    if len(found) > limit:
                        return Page(tuple(job for _, job in found[:limit]), _cursor(found[limit - 1][0]))
            if len(rows) < _STEP:
                return Page(tuple(job for _, job in found), None)
        return Page(tuple(job for _, job in found), None if last_seen is None else _cursor(last_seen))

    def _job_of(self, job_id: str, reply: Any) -> Job | None:
        """Return the job of one reply of a pipeline. A damaged record is reported, and hides no other job: None."""
        if not isinstance(reply, Exception):
            return to_job(job_id, reply)
        failure = self.faults.translate(reply, "a listing of jobs")
        if isinstance(failure, StoreFaultError):
            return None
        raise failure from reply


def _death(job: Job) -> str:
    return job.phase.error.code.value if isinstance(job.phase, Failed) else job.state.value


def _cursor(entry: tuple[int, str]) -> str:
    return f"{entry[0]}_{entry[1]}"
