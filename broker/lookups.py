"""Reading jobs, models and workers: single commands and pipelines, no transitions."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from broker.errors import StoreUnavailableError
from broker.keys import Keys
from broker.records import FIELDS, to_job
from jobs.lanes import Lane
from jobs.model import Job
from jobs.states import JobState


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished job's response body and HTTP status; None for what there is not."""

    status: int | None
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, and the cursor of the next page, or None."""

    jobs: tuple[Job, ...]
    cursor: str | None


class JobLookups:
    """What may be asked of the store. Every method raises ``StoreUnavailableError`` when Redis cannot be reached."""

    client: Redis
    keys: Keys

    async def get(self, job_id: str) -> Job | None:
        """Read a job; a queued one with its position."""
        values = await self._ask(self.client.hmget(self.keys("job", job_id), list(FIELDS)))
        job = to_job(values)
        if job is None or job.state is not JobState.QUEUED:
            return job
        return to_job(values, await self._position(job))

    async def _position(self, job: Job) -> int | None:
        pipe = self.client.pipeline(transaction=False)
        pipe.zrank(self.keys("queued", self.keys("queue", job.pool, job.lane)), job.id)
        for lane in list(Lane)[: list(Lane).index(job.lane)]:
            pipe.zcard(self.keys("queued", self.keys("queue", job.pool, lane)))
        rank, *above = await self._ask(pipe.execute())
        return None if rank is None else int(rank) + sum(above)

    async def result(self, job_id: str) -> StoredResult:
        """Read a job's stored response."""
        status, body = await self._ask(self.client.hmget(self.keys("job", job_id), ["status", "result"]))
        return StoredResult(None if status is None else int(status), None if body is None else body.encode())

    async def log(self, job_id: str, after: str) -> list[tuple[str, str]]:
        """Read a streamed job's log after the entry ``after`` (``0-0``: from the start): (entry id, payload)."""
        rows = await self._ask(self.client.xrange(self.keys("log", job_id), f"({after}", "+"))
        return [(eid, fields["p"]) for eid, fields in rows]

    async def log_entry(self, job_id: str, eid: str) -> str | None:
        """Read the payload of one entry of a streamed job's log; None: there is none."""
        rows = await self._ask(self.client.xrange(self.keys("log", job_id), eid, eid))
        return rows[0][1]["p"] if rows else None

    async def list_jobs(
        self,
        *,
        state: JobState | None = None,
        model: str | None = None,
        created_after_ms: int | None = None,
        created_before_ms: int | None = None,
        limit: int = 20,
        cursor: str | None = None,
        newest_first: bool = True,
    ) -> Page:
        """List jobs by creation time.

        A page of a combined filter reads at most 1,000 records, so it may hold fewer than ``limit`` and still have a cursor.

        Raises:
            ValueError: the cursor was not made by this method.
        """
        index = (
            self.keys("by_state", state)
            if state
            else self.keys("by_model", model)
            if model
            else self.keys("jobs")
        )
        low: str | int = "-inf" if created_after_ms is None else created_after_ms
        high: str | int = "+inf" if created_before_ms is None else created_before_ms
        at: tuple[int, str] | None = None
        if cursor is not None:
            score, _, last = cursor.partition("_")
            at = (int(score), last)
            low, high = (low, at[0]) if newest_first else (at[0], high)
        found: list[Job] = []
        offset = examined = 0
        while examined < 1000:
            find = self.client.zrevrangebyscore if newest_first else self.client.zrangebyscore
            bounds = (high, low) if newest_first else (low, high)
            rows: list[Any] = await self._ask(find(index, *bounds, start=offset, num=100, withscores=True))
            offset += len(rows)
            entries = [(int(score), job_id) for job_id, score in rows]
            if at is not None:
                entries = [e for e in entries if (e < at if newest_first else e > at)]
            pipe = self.client.pipeline(transaction=False)
            for _, job_id in entries:
                pipe.hmget(self.keys("job", job_id), list(FIELDS))
            for entry, values in zip(entries, await self._ask(pipe.execute()), strict=True):
                job = to_job(values)
                examined += 1
                last_seen = entry
                if job and (state is None or job.state is state) and (model is None or job.model == model):
                    found.append(job)
                    if len(found) > limit:
                        jobs = tuple(found[:limit])
                        return Page(jobs, f"{jobs[-1].timings.queued_ms}_{jobs[-1].id}")
            if len(rows) < 100:
                return Page(tuple(found), None)
        return Page(tuple(found), f"{last_seen[0]}_{last_seen[1]}")

    async def set_envelope(self, envelope: str, *, only_if_missing: bool = False) -> None:
        """Publish the Celery envelope (see :mod:`broker.envelope`), without which no job is accepted."""
        await self._ask(self.client.set(self.keys("envelope"), envelope, nx=only_if_missing))

    async def set_models(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        """Record what a pool serves: model name to its facts (``pool``, ``card``, ``endpoints``, limits)."""
        await self._ask(
            self.client.hset(self.keys("models"), mapping={k: json.dumps(v) for k, v in models.items()})
        )

    async def models(self) -> dict[str, dict[str, Any]]:
        """Read every model that was ever served here, with its facts."""
        rows = await self._ask(self.client.hgetall(self.keys("models")))
        return {name: json.loads(facts) for name, facts in sorted(rows.items())}

    async def workers(self) -> list[dict[str, Any]]:
        """Read what every worker with a live lease says of itself (``name``, ``pool``, ``models``, ...)."""
        seconds, _ = await self._ask(self.client.time())
        names = await self._ask(self.client.zrangebyscore(self.keys("workers"), seconds * 1000, "+inf"))
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.hget(self.keys("worker", name), "info")
        infos = await self._ask(pipe.execute()) if names else []
        return [
            json.loads(info) | {"incarnation": name} for name, info in zip(names, infos, strict=True) if info
        ]

    async def depths(self, pools: Sequence[str]) -> dict[tuple[str, Lane], int]:
        """Count waiting jobs per pool and lane."""
        wanted = [(pool, lane) for pool in pools for lane in Lane]
        pipe = self.client.pipeline(transaction=False)
        for pool, lane in wanted:
            pipe.zcard(self.keys("queued", self.keys("queue", pool, lane)))
        return dict(zip(wanted, await self._ask(pipe.execute()), strict=True)) if wanted else {}

    async def ping(self) -> None:
        """Return if Redis answers."""
        await self._ask(self.client.ping())

    async def _ask(self, command: Awaitable[Any] | Any) -> Any:
        try:
            return await command
        except (RedisError, OSError) as error:
            raise StoreUnavailableError(str(error)) from error
