"""Reads of jobs and queues: single commands and pipelines, no transitions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.asyncio import Redis
from redis.client import NEVER_DECODE
from redis.exceptions import RedisError

from broker.db.calls.queues import Look
from broker.db.client import is_stray_cancellation
from broker.db.errors import BodyGoneError, StoreUnavailableError
from broker.db.faults import Faults
from broker.db.functions import Functions
from broker.db.keys import Keys
from broker.large_bodies import LargeBodies
from broker.records import FIELDS, decode_facts, to_job
from broker.sealing import PARTIAL, REQUEST, RESULT, Sealer
from jobs.access import owns
from jobs.endpoints import ENDPOINTS
from jobs.ids import made_ms
from jobs.lanes import Lane
from jobs.model import Job, JobSpec, Queued
from jobs.outlook import Snapshot, start_ms
from jobs.references import MOST_REFERENCE_BYTES, Reference
from jobs.states import JobState

_TOLD = ("affinity", "prompt_tokens", "max_tokens", "answers", "upload")
"""Those that only its facts have."""

_KEPT = (
    *("endpoint", "model", "pool", "lane", "stream", "metadata", "tenant", "max_attempts"),
    *("queue_timeout_ms", "timeout_ms", "trace", "keep_ms", "once", "shown", "webhook"),
)
"""The fields of a job that a retry of it keeps."""

MOST_TENANTS = 200
"""Tenants that a position counts one by one, which takes Redis a millisecond. The rest is estimated by these."""

_TENANT = FIELDS.index("tenant")

_AS_BYTES = {NEVER_DECODE: True}
"""For redis-py: a body passes through as it was stored."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A finished job's HTTP status and response body, and the partial response of a job that did not succeed."""

    status: int | None
    body: bytes | None
    partial: bytes | None = None


class JobLookups:
    """Reads of the store. Every method raises ``StoreUnavailableError`` if Redis cannot be reached. Those that read a body
    raise :class:`jobs.sealing.SealingError` if it is encrypted and cannot be read, and the storage's own errors if it is
    there.

    ``owner``: see :class:`broker.jobs.JobStore`. A job's tenant is read together with what is asked for, and never changes.

    Attributes:
        faults: where errors of Redis are translated and counted.
    """

    client: Redis
    faults: Faults
    keys: Keys
    functions: Functions
    sealer: Sealer
    large: LargeBodies

    async def get(self, job_id: str, *, position: bool = True, owner: str | None = None) -> Job | None:
        """Read a job; a queued one with its ``position``, if that is wanted: it takes a function more."""
        values = await self.execute(self.client.hmget(self.keys("job", job_id), list(FIELDS)))
        job = job_for(owner, job_id, values)
        return await self._placed(job) if job is not None and position else job

    async def _placed(self, job: Job, most_tenants: int = MOST_TENANTS) -> Job:
        """Return a job, with its position if it is queued. Concurrent calls share a round trip."""
        if job.state is not JobState.QUEUED:
            return job
        facts = await self.look(job.id, most_tenants)
        return replace(job, phase=Queued(facts.position, start_ms(facts)))

    async def look(self, job_id: str, most_tenants: int = MOST_TENANTS) -> Snapshot:
        """Return where a queued job stands: exactly, unless more tenants than ``most_tenants`` wait before it."""
        return await self.functions.call(Look(id=job_id, most_tenants=most_tenants))

    async def look_ahead(self, pool: str, lane: Lane, tenant: str, *, position: bool = True) -> Snapshot:
        """Return where a new job would stand; without ``position``, the facts of the pool alone."""
        most = MOST_TENANTS if position else 0
        return await self.functions.call(Look(pool=pool, lane=lane.value, tenant=tenant, most_tenants=most))

    async def get_with_result(
        self, job_id: str, *, position: bool = True, owner: str | None = None
    ) -> tuple[Job, StoredResult] | tuple[None, None]:
        """Read a job as :meth:`get` does, with its stored response, in one command."""
        *values, body, partial = await self.execute(self._bytes_of(job_id, *FIELDS, "result", "partial"))
        texts = (None if value is None else value.decode() for value in values)
        fields = dict(zip(FIELDS, texts, strict=True))
        job = job_for(owner, job_id, list(fields.values()))
        if job is None:
            return None, None
        if position:
            job = await self._placed(job)
        return job, await self._whole(job_id, fields["status"], body, partial, fields["result_of"])

    async def result(self, job_id: str, *, owner: str | None = None) -> StoredResult:
        """Read a job's stored response; of a job that shares the end of an identical one, that one's. Empty: no such job."""
        fields = ("tenant", "status", "result", "partial", "result_of")
        tenant, status, body, partial, shared = await self.execute(self._bytes_of(job_id, *fields))
        if not owns(owner, None if tenant is None else tenant.decode()):
            return StoredResult(None, None)
        return await self._whole(job_id, status, body, partial, None if shared is None else shared.decode())

    async def _whole(
        self,
        job_id: str,
        status: str | bytes | None,
        body: bytes | None,
        partial: bytes | None,
        shared: str | None,
    ) -> StoredResult:
        """Return a stored response. ``shared``: the id of the job that has its body."""
        if shared is not None:
            job_id = shared
            body, partial = await self.execute(self._bytes_of(shared, "result", "partial"))
        body = await self.large.open(job_id, RESULT, body)
        partial = await self.large.open(job_id, PARTIAL, partial)
        return StoredResult(None if status is None else int(status), body, partial)

    def _bytes_of(self, job_id: str, *fields: str) -> Awaitable[list[bytes | None]]:
        """Return the command that reads fields of a record as they are stored."""
        key = self.keys("job", job_id)
        command: Awaitable[list[bytes | None]] = self.client.execute_command(
            "HMGET", key, *fields, **_AS_BYTES
        )  # type: ignore[no-untyped-call]
        return command

    async def request(self, job_id: str, *, owner: str | None = None) -> bytes | None:
        """Read a job's request, as its engine gets it; None: there is no such job, or its request was dropped."""
        tenant, body = await self.execute(self._bytes_of(job_id, "tenant", "req"))
        if not owns(owner, None if tenant is None else tenant.decode()):
            return None
        return await self.large.open(job_id, REQUEST, body)

    async def body_bytes(self, job_id: str, name: str, *, owner: str | None = None) -> int:
        """Return the size of a job's request or result, without reading it; 0: there is no such job, or it has none.

        Args:
            name: ``REQUEST`` or ``RESULT`` of :mod:`broker.sealing`.
        """
        pipe = self.client.pipeline(transaction=False)
        pipe.hmget(self.keys("job", job_id), ["tenant", "result_of"])
        pipe.hstrlen(self.keys("job", job_id), name)
        pipe.hexists(self.keys("objects"), job_id)
        (tenant, shared), size, has_objects = await self.execute(pipe.execute())
        if not owns(owner, tenant):
            return 0
        if name == RESULT and shared is not None:
            return await self.body_bytes(shared, name, owner=None)
        if has_objects and size <= MOST_REFERENCE_BYTES:
            (stored,) = await self.execute(self._bytes_of(job_id, name))
            reference = Reference.read(stored)
            return int(size) if reference is None else reference.size
        return int(size)

    async def respec(self, job_id: str, new_id: str, *, owner: str | None = None) -> JobSpec | None:
        """Return a job's submission, to be accepted again as ``new_id`` for ``owner``. None: there is no such job.

        Its time limits start anew; lane, pool, tenant and trace stay.

        Raises:
            BodyGoneError: its request was dropped with its result.
            NewerRecordError: a newer version of Penstock wrote it.
        """
        *values, body = await self.execute(self._bytes_of(job_id, *FIELDS, "req"))
        fields = [value if value is None else value.decode() for value in values]
        job = job_for(owner, job_id, fields)
        if job is None:
            return None
        life = None if job.expires_at_ms is None else job.expires_at_ms - job.timings.queued_ms
        body = await self.large.open(job_id, REQUEST, body)
        kept: dict[str, Any] = {name: getattr(job, name) for name in _KEPT}
        facts = decode_facts(fields[FIELDS.index("facts")] or "")
        told = {name: getattr(facts, name) for name in _TOLD}
        if body is None:
            raise BodyGoneError(job_id)
        kept["shown"] = _shown_as(job, new_id)
        return JobSpec(id=new_id, body=body, expires_in_ms=life, retry_of=job_id, owner=owner, **told, **kept)

    async def log(self, job_id: str, after: str, count: int | None = None) -> list[tuple[str, str]]:
        """Read a streamed job's log after the entry ``after`` (``0-0``: from the start): (entry id, payload).

        Args:
            count: most entries; None: all.
        """
        rows = await self.execute(self.client.xrange(self.keys("log", job_id), f"({after}", "+", count))
        return [(eid, self.sealer.open_event(job_id, eid, fields["p"])) for eid, fields in rows]

    async def log_entry(self, job_id: str, eid: str, *, owner: str | None = None) -> str | None:
        """Read the payload of one entry of a streamed job's log; None: there is no such entry."""
        pipe = self.client.pipeline(transaction=False)
        pipe.hget(self.keys("job", job_id), "tenant")
        pipe.xrange(self.keys("log", job_id), eid, eid)
        tenant, rows = await self.execute(pipe.execute())
        if not owns(owner, tenant):
            return None
        return self.sealer.open_event(job_id, eid, rows[0][1]["p"]) if rows else None

    async def all_pools(self) -> frozenset[str]:
        """Return every pool that ever had a worker, a job or a declaration, and was not forgotten."""
        return frozenset(await self.execute(self.client.smembers(self.keys("pools"))))

    async def depths(self, pools: Sequence[str]) -> dict[tuple[str, Lane], int]:
        """Count waiting jobs per pool and lane."""
        wanted = [(pool, lane) for pool in pools for lane in Lane]
        pipe = self.client.pipeline(transaction=False)
        for pool, lane in wanted:
            pipe.hmget(self.keys("pool", pool), [f"depth:{lane}", f"attached:{lane}"])
        counts = await self.execute(pipe.execute()) if wanted else []
        return {
            place: sum(int(count or 0) for count in found)
            for place, found in zip(wanted, counts, strict=True)
        }

    async def now_ms(self) -> int:
        """Return the server's time in Unix milliseconds."""
        seconds, micros = await self.execute(self.client.time())
        return int(seconds) * 1000 + int(micros) // 1000

    async def execute(self, command: Awaitable[Any] | Any) -> Any:
        """Return the reply to a command or pipeline of :attr:`client`, with Redis's errors translated."""
        try:
            return await command
        except asyncio.CancelledError as error:
            if not is_stray_cancellation():
                raise
            raise StoreUnavailableError(f"{_caller()}: interrupted") from error
        except (RedisError, OSError) as error:
            raise self.faults.translate(error, _caller()) from error


def _shown_as(job: Job, new_id: str) -> dict[str, Any]:
    """Return what the answer of a retry shows: its own id and time. It leaves a conversation as it is."""
    shown = {name: value for name, value in job.shown.items() if name != "conversation"}
    if "id" in shown:
        own_id = ENDPOINTS[job.endpoint].response_id.format(new_id)
        shown |= {"id": own_id, "created_at": made_ms(new_id) // 1000}
    return shown


def job_for(owner: str | None, job_id: str, values: Sequence[str | None]) -> Job | None:
    """Build a job as :func:`broker.records.to_job` does, for ``owner``; None: it does not exist for this one."""
    if not owns(
        owner, values[_TENANT] or ""
    ):  # first: nothing is said of another's record, as that it is newer
        return None
    job = to_job(job_id, values)
    return job if job is not None and job.is_of(owner) else None


def _caller() -> str:
    """Return the name of the method that called the one that calls this."""
    frame = inspect.currentframe()
    for _ in range(2):
        frame = None if frame is None else frame.f_back
    return "a command" if frame is None else frame.f_code.co_qualname
