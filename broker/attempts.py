"""The worker's side of the job store: claims, and how attempts end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from redis.exceptions import ResponseError

from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.db.runner import Arg, ScriptRunner
from broker.records import encode_error, encode_usage
from jobs.failures import FAILURES, FailureCode
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION, JobError, Usage
from jobs.retry import MAX_KILLS, RetryPolicy
from jobs.states import JobEvent, JobState

log = structlog.get_logger(__name__)

_RETRY_S = 0.5

_END_EVENTS = {
    JobState.SUCCEEDED: JobEvent.SUCCEED,
    JobState.FAILED: JobEvent.FAIL,
    JobState.CANCELLED: JobEvent.CANCEL,
    JobState.EXPIRED: JobEvent.EXPIRE,
}


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a job, valid for one attempt.

    Attributes:
        attempt: its number, from 1.
        endpoint: one of :data:`jobs.model.ENDPOINTS`, or a chunk's.
        stream: whether its chunks are logged and published.
        timeout_ms: allowed run time; None: no limit.
        kills: attempts of this job under which the engine died.
        waited_ms: time in its queue; None: unknown.
        age_ms: time since its acceptance, at the claim.
        left_ms: time until its deadline, at the claim; None: no deadline.
    """

    id: str
    attempt: int
    endpoint: str
    stream: bool
    lane: Lane
    model: str
    body: bytes
    timeout_ms: int | None = None
    kills: int = 0
    trace: str | None = None
    waited_ms: int | None = None
    age_ms: int | None = None
    left_ms: int | None = None
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that gives no right to run its job.

    ``reason`` is the job's state, ``gone``, ``fenced`` (this worker's lease has ended), ``delayed`` (the next attempt is not
    due yet), ``coalesced`` (it ends with an identical job) or ``newer`` (a newer version of Penstock must run it).
    """

    reason: str


class Attempts:
    """A job's transitions that workers carry out. Part of :class:`broker.jobs.JobStore`."""

    scripts: ScriptRunner
    _retry: RetryPolicy
    retention_ms: int

    async def claim(self, job_id: str, worker: str) -> Claim | Dropped:
        """Turn a queue message into the right to run its job, if it still gives that right.

        Waits while Redis is unreachable: a lost answer may have granted the claim, and a worker must know its claims.

        Raises:
            StoreUnavailableError: Redis refused, so nothing was granted.
            StoreFaultError: the script failed twice, so nothing was granted, or nothing that could be read.
        """
        token = uuid.uuid4().hex
        failed = False
        while True:
            try:
                reply = await self.scripts.call(
                    "job/claim", job_id, worker, self.retention_ms, token, SCHEMA_VERSION
                )
                break
            except StoreUnavailableError as error:
                if isinstance(error.__cause__, ResponseError):
                    raise
                log.warning("claim_delayed", job_id=job_id, error=str(error))
                await asyncio.sleep(_RETRY_S)
            except StoreFaultError:
                if failed:
                    raise
                failed = True  # it may have failed behind the grant, which a repetition finds
        if reply[0] == "drop":
            return Dropped(reply[1])
        (_, attempt, endpoint, stream, lane, model, body, timeout_ms, kills, trace, waited_ms, *facts) = reply
        age_ms, left_ms, tenant = facts
        return Claim(
            job_id,
            int(attempt),
            endpoint,
            stream == "1",
            Lane(lane),
            model,
            body.encode(),
            int(timeout_ms) if timeout_ms else None,
            kills,
            trace or None,
            None if waited_ms < 0 else waited_ms,
            age_ms,
            None if left_ms == "" else left_ms,
            tenant,
        )

    async def append(self, entries: Sequence[tuple[str, int, int, str]]) -> frozenset[str]:
        """Log and publish chunks: (job id, attempt, sequence number from 1, payload). Return the ids of refused jobs."""
        flat: list[Arg] = []
        for entry in entries:
            flat.extend(entry)
        return frozenset(await self.scripts.call("job/append", *flat))

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
        partial: bytes = b"",
        tail: Sequence[tuple[int, str]] = (),
    ) -> bool:
        """End a job, with the last chunks of its stream.

        Args:
            state: a terminal state.
            status: HTTP status for a synchronous caller; None: the engine gave none.
            result: the engine's response, or its error body.
            usage: token counts, also of a partial response.
            partial: the partial response of a job that did not succeed.
            tail: the stream's last chunks: (sequence number, payload).

        Returns:
            False: this attempt no longer owns the job, nothing was written.
        """
        flat: list[Arg] = []
        for seq, payload in tail:
            flat += (seq, payload)
        reply = await self.scripts.call(
            "job/finish",
            claim.id,
            claim.attempt,
            worker,
            _END_EVENTS[state].value,
            "" if status is None else status,
            result,
            encode_usage(usage),
            encode_error(error),
            partial,
            self.retention_ms,
            *flat,
        )
        return bool(reply)

    async def release(self, claim: Claim, worker: str, reason: str) -> JobState | None:
        """Return a job to the head of its queue; the attempt does not count. ``reason`` goes into its history.

        Returns:
            The job's state now; None: this attempt no longer owned it.
        """
        return await self._release(claim, worker, "back", reason)

    async def retry_later(
        self, claim: Claim, worker: str, error: JobError, chance: float, *, status: int, result: bytes = b""
    ) -> JobState | None:
        """End a failed attempt that may succeed if repeated: the job is queued again after a delay.

        The job fails with ``error`` if this was its last attempt, or if the next would come after its deadline.

        Args:
            chance: 0.0 to 1.0, for the delay's jitter; see :class:`jobs.retry.RetryPolicy`.
            status: HTTP status for a synchronous caller, if the job fails.
            result: the engine's error body, if the job fails.

        Returns:
            The job's state now; None: this attempt no longer owned it.
        """
        delay_ms = int(self._retry.delay_s(claim.attempt, chance) * 1000)
        return await self._release(
            claim, worker, "retry", error.message, error.code, status, result, delay_ms
        )

    async def release_from_dead_engine(self, claim: Claim, worker: str, message: str) -> JobState | None:
        """Return a job under which the engine died to its queue; after :data:`jobs.retry.MAX_KILLS` times it fails.

        Returns:
            The job's state now; None: this attempt no longer owned it.
        """
        code = FailureCode.ENGINE_UNAVAILABLE
        return await self._release(claim, worker, "kill", message, code, FAILURES[code].http_status)

    async def _release(
        self,
        claim: Claim,
        worker: str,
        kind: str,
        reason: str,
        code: str = "",
        status: int | str = "",
        result: bytes = b"",
        delay_ms: int = 0,
    ) -> JobState | None:
        reply = await self.scripts.call(
            "job/release",
            claim.id,
            claim.attempt,
            worker,
            kind,
            reason,
            code,
            status,
            result,
            delay_ms,
            MAX_KILLS,
            self.retention_ms,
        )
        return None if reply is None else JobState(reply)
