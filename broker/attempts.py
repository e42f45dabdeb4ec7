"""The worker's side of the job store: claims, and how attempts end."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from broker.claims import Claim, claims_of
from broker.db.calls import attempts as calls
from broker.db.functions import Functions
from broker.large_bodies import LargeBodies
from broker.records import encode_error, encode_usage
from broker.sealing import PARTIAL, REQUEST, RESULT, Sealer
from jobs.failures import FAILURES, FailureCode
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION, JobError, Usage
from jobs.poison import MOST_KINDS, REMEMBERED_MS, Kind
from jobs.retry import MAX_KILLS, RetryPolicy
from jobs.states import JobEvent, JobState
from jobs.webhooks import is_incomplete

_END_EVENTS = {
    JobState.SUCCEEDED: JobEvent.SUCCEED,
    JobState.FAILED: JobEvent.FAIL,
    JobState.CANCELLED: JobEvent.CANCEL,
    JobState.EXPIRED: JobEvent.EXPIRE,
}


class Attempts:
    """A job's transitions that workers carry out. Part of :class:`broker.jobs.JobStore`."""

    functions: Functions
    sealer: Sealer
    large: LargeBodies
    _retry: RetryPolicy
    retention_ms: int

    async def claim(
        self,
        worker: str,
        *,
        pool: str = "default",
        room: int = 1,
        bulk_room: int | None = None,
        suspects: int = 1,
        chunk_lanes: int = len(Lane),
    ) -> list[Claim]:
        """Take the next jobs of a pool. A worker's transport does the same (:mod:`broker.celery.claimer`).

        Args:
            room: most jobs.
            bulk_room: of these, most of the lane ``bulk``; None: as many.
            suspects: of these, most under which an engine has died.
            chunk_lanes: from how many lanes, the highest first, it may take a chunk of a batch.

        Returns:
            The claims; none, too, if the worker's lease has ended.
        """
        call = calls.Claim(
            worker=worker,
            pool=pool,
            room=room,
            bulk_room=room if bulk_room is None else bulk_room,
            suspects=suspects,
            chunk_lanes=chunk_lanes,
            version=SCHEMA_VERSION,
            retention_ms=self.retention_ms,
            token=secrets.token_hex(8),
        )
        return claims_of(*await self.functions.submit(call), self.sealer)

    async def body_of(self, claim: Claim) -> bytes:
        """Return the request of a claimed job, from wherever it is.

        Raises:
            Exception: the storage's own error, see :meth:`broker.large_bodies.LargeBodies.fetch`.
        """
        if claim.reference is None:
            return claim.body
        return await self.large.fetch(claim.id, REQUEST, claim.reference)

    async def append(self, entries: Sequence[tuple[str, int, int, str]]) -> frozenset[str]:
        """Log and publish chunks: (job id, attempt, sequence number from 1, payload). Return the ids of refused jobs."""
        heads = [field for entry in entries for field in entry[:3]]
        blobs = (self.sealer.seal_chunk(*entry) for entry in entries)
        refused = await self.functions.call(calls.Append(entries=heads), *blobs)
        return frozenset(refused)

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
        device_us: int | None = None,
    ) -> bool:
        """End a job, with the last chunks of its stream.

        Args:
            state: a terminal state.
            status: HTTP status for a synchronous caller; None: the engine gave none.
            result: the engine's response, or its error body.
            usage: token counts, also of a partial response.
            partial: the partial response of a job that did not succeed.
            tail: the stream's last chunks: (sequence number, payload).
            device_us: microseconds of device that the attempt took; None: not known.

        Returns:
            False: this attempt no longer owns the job, nothing was written.
        """
        call = calls.Finish(
            id=claim.id,
            attempt=claim.attempt,
            worker=worker,
            event=_END_EVENTS[state].value,
            model=claim.model,
            retention_ms=self.retention_ms,
            tail=[seq for seq, _ in tail],
            status=status,
            usage=encode_usage(usage),
            tokens=None if usage is None else usage.prompt_tokens + usage.completion_tokens,
            completion=claim.completion_of(usage),
            error=encode_error(error),
            device_us=device_us,
            incomplete=is_incomplete(claim.endpoint, result) or None,
            leads=claim.leads or None,
        )
        whole = await self.large.store(claim.id, RESULT, result, writer=claim.attempt)
        part = await self.large.store(claim.id, PARTIAL, partial, writer=claim.attempt)
        if objects := [*whole.keys, *part.keys]:
            call = msgspec.structs.replace(call, objects=objects)
        chunks = (self.sealer.seal_chunk(claim.id, claim.attempt, seq, payload) for seq, payload in tail)
        written = await self.functions.call(call, whole.blob, part.blob, *chunks)
        if not written:
            await self.large.drop(claim.id, whole, part)
        return written

    async def release(self, claim: Claim, worker: str, reason: str) -> JobState | None:
        """Return a job to the head of its queue; the attempt does not count. ``reason`` goes into its history.

        Returns:
            The job's state now; None: this attempt no longer owned it.
        """
        return await self._release(claim, worker, "back", reason)

    async def retry_later(
        self,
        claim: Claim,
        worker: str,
        error: JobError,
        chance: float,
        *,
        status: int,
        result: bytes = b"",
        device_us: int | None = None,
    ) -> JobState | None:
        """End a failed attempt that may succeed if repeated: the job is queued again after a delay.

        The job fails with ``error`` if this was its last attempt, or if the next would come after its deadline.

        Args:
            chance: 0.0 to 1.0, for the delay's jitter; see :class:`jobs.retry.RetryPolicy`.
            status: HTTP status for a synchronous caller, if the job fails.
            result: the engine's error body, if the job fails.
            device_us: microseconds of device that the attempt took, if the job fails.

        Returns:
            The job's state now; None: this attempt no longer owned it.
        """
        delay_ms = int(self._retry.delay_s(claim.attempt, chance) * 1000)
        return await self._release(
            claim,
            worker,
            "retry",
            error.message,
            error.code,
            status=status,
            result=result,
            delay_ms=delay_ms,
            device_us=device_us,
        )

    async def release_from_dead_engine(
        self, claim: Claim, worker: str, message: str, kind: Kind | None = None
    ) -> JobState | None:
        """Return a job under which the engine died to its queue; after :data:`jobs.retry.MAX_KILLS` times it fails.

        Args:
            kind: of its request, which is then refused; None: it is not remembered.

        Returns:
            The job's state now; None: this attempt no longer owned it.
        """
        code = FailureCode.ENGINE_UNAVAILABLE
        status = FAILURES[code].http_status
        return await self._release(claim, worker, "kill", message, code, status=status, poison=kind)

    async def _release(
        self,
        claim: Claim,
        worker: str,
        kind: str,
        reason: str,
        code: str | None = None,
        *,
        status: int | None = None,
        result: bytes = b"",
        delay_ms: int = 0,
        device_us: int | None = None,
        poison: Kind | None = None,
    ) -> JobState | None:
        call = calls.Release(
            id=claim.id,
            attempt=claim.attempt,
            worker=worker,
            kind=kind,
            reason=reason,
            max_attempts=claim.max_attempts,
            max_kills=MAX_KILLS,
            retention_ms=self.retention_ms,
            delay_ms=delay_ms,
            code=code,
            status=status,
            device_us=device_us,
        )
        if poison is not None:
            said = (poison.digest, poison.members)
            bounds = {"poison_ms": REMEMBERED_MS, "most_poison": MOST_KINDS}
            call = msgspec.structs.replace(call, poison=said, **bounds)
        body = await self.large.store(claim.id, RESULT, result, writer=claim.attempt)
        if body.keys:
            call = msgspec.structs.replace(call, objects=list(body.keys))
        state = await self.functions.call(call, body.blob)
        if state != JobState.FAILED:
            await self.large.drop(claim.id, body)
        return None if state is None else JobState(state)
