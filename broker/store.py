"""The job store: each method is one atomic transition or one look-up, with types on both sides."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from broker.errors import IdempotencyConflictError, QueueFullError
from broker.keys import Keys
from broker.lookups import JobLookups
from broker.records import encode_error, encode_usage
from broker.scripts import Arg, ScriptRunner
from broker.settings import BrokerSettings
from jobs.failures import FAILURES, FailureCode
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION, JobError, JobSpec, Usage
from jobs.states import JobState


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a submission.

    Attributes:
        id: the job's id; the earlier job's where the idempotency key was known.
        created_ms: when it was accepted.
        position: jobs before it, in its lane and those above; None for a known one.
        replayed: the idempotency key was known.
    """

    id: str
    created_ms: int
    position: int | None
    replayed: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a job, valid for this attempt only."""

    id: str
    attempt: int
    endpoint: str
    stream: bool
    lane: Lane
    model: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that gives no right to run: ``reason`` is the job's state, ``gone`` or ``fenced``."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one round of the reaper did, in jobs."""

    requeued: int
    failed: int
    repushed: int
    expired: int
    retired: int


class JobStore(JobLookups):
    """Jobs in Redis. One instance per event loop.

    Every method raises :class:`~broker.errors.StoreUnavailableError` when Redis cannot be reached.
    """

    def __init__(self, client: Redis, settings: BrokerSettings) -> None:
        self.client = client
        self.keys = Keys(settings.namespace)
        self._settings = settings
        self._retention_ms = int(settings.retention_s * 1000)
        self._run = ScriptRunner(client, self.keys)

    # ---- the front ---------------------------------------------------------------------------------------------

    async def accept(self, spec: JobSpec) -> Accepted:
        """Create the job and queue it, or find it by its idempotency key.

        Raises:
            QueueFullError: the lane is full. Nothing was written.
            IdempotencyConflictError: the key belongs to another submission. Nothing was written.
        """
        digest = ""
        if spec.idempotency_key is not None:
            facts = [spec.endpoint, spec.model, spec.lane, spec.stream, spec.max_attempts, spec.expires_in_ms]
            seed = json.dumps([*facts, dict(spec.metadata)])
            digest = hashlib.sha256(seed.encode() + spec.body).hexdigest()
        lanes = list(Lane)
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
            "" if spec.expires_in_ms is None else spec.expires_in_ms,
            spec.idempotency_key or "",
            digest,
            spec.sink or "",
            self._settings.queue_max,
            self._retention_ms,
            SCHEMA_VERSION,
            *(self.keys("queue", spec.pool, lane) for lane in lanes[: lanes.index(spec.lane)]),
        )
        if reply[0] == "full":
            raise QueueFullError(reply[1])
        if reply[0] == "conflict":
            raise IdempotencyConflictError(reply[1])
        return Accepted(reply[1], reply[2], None if reply[3] < 0 else reply[3], reply[0] == "same")

    async def cancel(self, job_id: str) -> JobState | None:
        """Stop a job. Returns the state it is in now (``running``: its worker has been told); None: no such job."""
        reply = await self._run.call("cancel", job_id, self._retention_ms)
        return None if reply is None else JobState(reply)

    async def watch(self, job_id: str, sink: str) -> JobState | None:
        """Have the job's events published to the api process ``sink`` from now on. Returns its state or None."""
        reply = await self._run.call("watch", job_id, sink)
        return None if reply is None else JobState(reply)

    # ---- the worker --------------------------------------------------------------------------------------------

    async def claim(self, job_id: str, worker: str) -> Claim | Dropped:
        """Turn a queue message into the right to run its job, if it still gives that right."""
        reply = await self._run.call("claim", job_id, worker, self._retention_ms, uuid.uuid4().hex)
        if reply[0] == "drop":
            return Dropped(reply[1])
        _, attempt, endpoint, stream, lane, model, body = reply
        return Claim(job_id, int(attempt), endpoint, stream == "1", Lane(lane), model, body.encode())

    async def append(self, entries: Sequence[tuple[str, int, int, str]]) -> frozenset[str]:
        """Log and publish chunks: (job id, attempt, sequence number from 1, payload). Returns the refused jobs' ids."""
        flat: list[Arg] = []
        for entry in entries:
            flat.extend(entry)
        return frozenset(await self._run.call("append", *flat))

    async def finish(
        self,
        claim: Claim,
        worker: str,
        state: JobState,
        *,
        status: int | None = None,
        result: bytes = b"",
        usage: Usage | None = None,
        error: JobError | None = None,
        tail: Sequence[tuple[int, str]] = (),
    ) -> bool:
        """End a job, with the last chunks of its stream. False: this attempt no longer owns it, nothing was written."""
        flat: list[Arg] = []
        for seq, payload in tail:
            flat += (seq, payload)
        reply = await self._run.call(
            "finish",
            claim.id,
            claim.attempt,
            worker,
            state.value,
            "" if status is None else status,
            result,
            encode_usage(usage),
            encode_error(error),
            self._retention_ms,
            *flat,
        )
        return bool(reply)

    async def release(
        self, claim: Claim, worker: str, reason: str, failure: FailureCode | None = None
    ) -> JobState | None:
        """Give a job back to the head of its queue.

        Args:
            claim: the attempt that ends here.
            worker: who gives it back.
            reason: for the job's history; with ``failure``, the message of the error it may end with.
            failure: the engine failed under the job. That costs an attempt, and the last one fails the job with this code;
                None costs nothing.

        Returns:
            The state it is in now; None where this attempt no longer owned it.
        """
        reply = await self._run.call(
            "release",
            claim.id,
            claim.attempt,
            worker,
            reason,
            self._retention_ms,
            int(failure is not None),
            failure or "",
            FAILURES[failure].http_status if failure else "",
        )
        return None if reply is None else JobState(reply)

    async def heartbeat(
        self, worker: str, *, first: bool = False, info: Mapping[str, Any] | None = None
    ) -> dict[str, str] | None:
        """Prolong the lease. Returns jobs to abort, id to reason; None: the lease is lost, abort everything."""
        ttl = int(self._settings.lease_ttl_s * 1000)
        reply = await self._run.call("heartbeat", worker, ttl, int(first), json.dumps(info) if info else "")
        if reply[0] == 0:
            return None
        return dict(zip(reply[1::2], reply[2::2], strict=True))

    async def bury(self, worker: str) -> None:
        """End a worker's lease: it has ended. Jobs it left are taken over in the next round."""
        await self._run.call("bury", worker)

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
