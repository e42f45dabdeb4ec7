"""The job store: each method is one atomic transition or one look-up, with types on both sides."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from broker.attempts import Attempts
from broker.errors import (
    IdempotencyConflictError,
    QueueFullError,
    StoreUnavailableError,
    UnfinishedError,
)
from broker.keys import Keys
from broker.listings import JobListings
from broker.scripts import ScriptRunner
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION, JobSpec
from jobs.retry import RetryPolicy
from jobs.states import JobState

_ACCEPT_WITHIN_MS = 4_000
"""Less than it takes until a submission fails for Redis's silence: the time-out in ``broker/connection.py``."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a submission.

    Attributes:
        id: the job's id; the earlier job's where the idempotency key was known.
        created_ms: when it was accepted.
        position: jobs before it, in its lane and those above; None for a known one.
        replayed: the idempotency key was known, or the job to repeat had been repeated.
    """

    id: str
    created_ms: int
    position: int | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one round of the reaper did, in jobs."""

    requeued: int
    failed: int
    repushed: int
    expired: int
    retired: int
    due: int


class JobStore(JobListings, Attempts):
    """Jobs in Redis. One instance per event loop.

    Every method raises :class:`~broker.errors.StoreUnavailableError` when Redis cannot be reached.
    """

    def __init__(self, client: Redis, settings: BrokerSettings) -> None:
        self.client = client
        self.keys = Keys(settings.namespace)
        self._settings = settings
        self._retention_ms = int(settings.retention_s * 1000)
        self._lease_ttl_ms = int(settings.lease_ttl_s * 1000)
        self._retry = RetryPolicy(settings.retry_base_s, settings.retry_max_s)
        self._run = ScriptRunner(client, self.keys)
        self._ahead_ms: int | None = None  # Redis's clock, of this process's

    # ---- the front ---------------------------------------------------------------------------------------------

    async def accept(self, spec: JobSpec) -> Accepted:
        """Create the job and queue it, or find it by its idempotency key or as the repetition of ``spec.retry_of``.

        Raises:
            UnfinishedError: the job to repeat has not ended. Nothing was written.
            LookupError: there is no such job. Nothing was written.
            QueueFullError: the lane is full. Nothing was written.
            IdempotencyConflictError: the key belongs to another submission. Nothing was written.
        """
        digest = ""
        if spec.idempotency_key is not None:
            facts = [spec.endpoint, spec.model, spec.lane, spec.stream, spec.max_attempts, spec.expires_in_ms]
            limits = [spec.timeout_ms, spec.queue_timeout_ms, spec.retry_of]
            seed = json.dumps([*facts, *limits, dict(spec.metadata)])
            digest = hashlib.sha256(seed.encode() + spec.body).hexdigest()
        reply = await self._accept(spec, digest)
        if reply[0] == "full":
            raise QueueFullError(reply[1])
        if reply[0] == "conflict":
            raise IdempotencyConflictError(reply[1])
        if reply[0] == "unfinished":
            raise UnfinishedError(reply[1])
        if reply[0] == "gone":
            raise LookupError(reply[1])
        return Accepted(reply[1], reply[2], None if reply[3] < 0 else reply[3], reply[0] == "same")

    async def _accept(self, spec: JobSpec, digest: str) -> Any:
        """Run the script so that Redis does not carry it out once this has failed for its silence."""
        lanes = list(Lane)
        give_up_at = _now_ms() + _ACCEPT_WITHIN_MS
        while True:
            reply = await self._run.call(
                "accept",
                spec.id,
                spec.pool,
                spec.lane.value,
                spec.endpoint,
                spec.model,
                spec.body,
                int(spec.stream),
                json.dumps(dict(spec.metadata)),
                spec.tenant,
                spec.max_attempts,
                _or_empty(spec.expires_in_ms),
                spec.idempotency_key or "",
                digest,
                spec.sink or "",
                self._settings.queue_max,
                self._retention_ms,
                SCHEMA_VERSION,
                _or_empty(spec.timeout_ms),
                _or_empty(spec.queue_timeout_ms),
                spec.retry_of or "",
                "" if self._ahead_ms is None else give_up_at + self._ahead_ms,
                *(self.keys("queue", spec.pool, lane) for lane in lanes[: lanes.index(spec.lane)]),
            )
            if reply[0] == "accepted":
                self._ahead_ms = reply[2] - _now_ms()
            if reply[0] != "late":
                return reply
            self._ahead_ms = reply[1] - _now_ms()
            if _now_ms() > give_up_at:
                raise StoreUnavailableError("accept: Redis answered too late")

    async def cancel(self, job_id: str) -> JobState | None:
        """Stop a job. Returns the state it is in now (``running``: its worker has been told); None: no such job."""
        reply = await self._run.call("cancel", job_id, self._retention_ms)
        return None if reply is None else JobState(reply)

    async def watch(self, job_id: str, sink: str) -> JobState | None:
        """Have the job's events published to the api process ``sink`` from now on. Returns its state or None."""
        reply = await self._run.call("watch", job_id, sink)
        return None if reply is None else JobState(reply)

    async def drain(self, worker: str, timeout_s: float | None = None) -> bool:
        """Tell a worker incarnation to drain, within ``timeout_s`` seconds or its own setting. False: it is not alive."""
        return bool(await self._run.call("drain", worker, _or_empty(timeout_s)))

    # ---- everybody ---------------------------------------------------------------------------------------------

    async def reap(self) -> Reaped:
        """Run one round of the reaper. Any number of processes may."""
        s = self._settings
        hold_gap = max(5 * s.reap_interval_s, s.lease_ttl_s / 3)
        ms = [s.lease_ttl_s, s.requeue_grace_s, s.requeue_grace_s]
        reply = await self._run.call(
            "reap", *(int(x * 1000) for x in ms), 1000, self._retention_ms, int(hold_gap * 1000)
        )
        return Reaped(*reply)

    async def aclose(self) -> None:
        """Send what is pending and close the connections."""
        await self._run.aclose()
        await self.client.aclose()


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def _now_ms() -> int:
    """This process's clock, which only ever goes forward."""
    return time.monotonic_ns() // 1_000_000
