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
from jobs.model import Job, JobSpec
from jobs.states import JobState


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished job's HTTP status, its response body, and how far the response of one that did not succeed went.

    None for what there is not.
    """

    status: int | None
    body: bytes | None
    partial: bytes | None = None


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
        fields = ["status", "result", "partial"]
        status, *bodies = await self._ask(self.client.hmget(self.keys("job", job_id), fields))
        body, partial = (None if text is None else text.encode() for text in bodies)
        return StoredResult(None if status is None else int(status), body, partial)

    async def respec(self, job_id: str, new_id: str) -> JobSpec | None:
        """Read what a job was submitted as, to be accepted again as ``new_id``. None: there is no such job.

        What it had of limits it has again, counted anew; the lane, the pool and the owner stay.

        Raises:
            NewerRecordError: a newer version of Penstock wrote it.
        """
        names = [*FIELDS, "req"]
        *values, body = await self._ask(self.client.hmget(self.keys("job", job_id), names))
        job = to_job(values)
        if job is None:
            return None
        life = None if job.expires_at_ms is None else job.expires_at_ms - job.timings.queued_ms
        return JobSpec(
            id=new_id,
            endpoint=job.endpoint,
            model=job.model,
            body=body.encode(),
            pool=job.pool,
            lane=job.lane,
            stream=job.stream,
            metadata=job.metadata,
            tenant=job.tenant,
            max_attempts=job.max_attempts,
            expires_in_ms=life,
            queue_timeout_ms=job.queue_timeout_ms,
            timeout_ms=job.timeout_ms,
            retry_of=job_id,
        )

    async def log(self, job_id: str, after: str) -> list[tuple[str, str]]:
        """Read a streamed job's log after the entry ``after`` (``0-0``: from the start): (entry id, payload)."""
        rows = await self._ask(self.client.xrange(self.keys("log", job_id), f"({after}", "+"))
        return [(eid, fields["p"]) for eid, fields in rows]

    async def log_entry(self, job_id: str, eid: str) -> str | None:
        """Read the payload of one entry of a streamed job's log; None: there is none."""
        rows = await self._ask(self.client.xrange(self.keys("log", job_id), eid, eid))
        return rows[0][1]["p"] if rows else None

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
