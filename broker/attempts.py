"""The worker's side of the job store: claiming jobs, and what becomes of each attempt."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import ResponseError

from broker.db.errors import StoreUnavailableError
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

DRAIN = "drain"
"""Stands for a job's id where a worker is told to drain."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a job, valid for this attempt only.

    ``timeout_ms`` is the run time it has, None for no limit; ``kills`` says under how many of its attempts the engine died.
    ``trace`` is the job's place in a trace; ``waited_ms`` says how long it was in its queue, None where that is not known.
    As of the claim, ``age_ms`` is since its acceptance and ``left_ms`` until its deadline, None where it has none.
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
    """A message that gives no right to run.

    ``reason`` is the job's state, ``gone``, ``fenced`` (this worker's lease has ended), ``delayed`` (the next attempt is not
    due yet), ``coalesced`` (it ends with an identical one) or ``newer`` (a newer version of Penstock must run it).
    """

    reason: str


class Attempts:
    """The transitions of a job that a worker carries out. Part of :class:`broker.jobs.JobStore`."""

    scripts: ScriptRunner
    _retry: RetryPolicy
    _retention_ms: int
    _lease_ttl_ms: int

    async def claim(self, job_id: str, worker: str) -> Claim | Dropped:
        """Turn a queue message into the right to run its job, if it still gives that right.

        Waits for as long as Redis is away: an answer that was lost may have granted it to a worker that does not know.

        Raises:
            StoreUnavailableError: Redis refused, so nothing was granted.
        """
        token = uuid.uuid4().hex
        while True:
            try:
                reply = await self.scripts.call(
                    "job/claim", job_id, worker, self._retention_ms, token, SCHEMA_VERSION
                )
                break
            except StoreUnavailableError as error:
                if isinstance(error.__cause__, ResponseError):
                    raise
                log.warning("claim_delayed", job_id=job_id, error=str(error))
                await asyncio.sleep(_RETRY_S)
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
        """Log and publish chunks: (job id, attempt, sequence number from 1, payload). Returns the refused jobs' ids."""
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
            claim: the attempt that ends it.
            worker: whose it is.
            state: a terminal state.
            status: HTTP status for a synchronous caller; None where there is none.
            result: the engine's response, or its error body.
            usage: token counts, of a partial response too.
            error: of a failed job.
            partial: the response as far as it went, of a job that did not succeed.
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
            self._retention_ms,
            *flat,
        )
        return bool(reply)

    async def release(self, claim: Claim, worker: str, reason: str) -> JobState | None:
        """Give a job back to the head of its queue, at no cost to it. ``reason`` is for its history.

        Returns:
            The state it is in now; None where this attempt no longer owned it.
        """
        return await self._release(claim, worker, "back", reason)

    async def retry_later(
        self, claim: Claim, worker: str, error: JobError, chance: float, *, status: int, result: bytes = b""
    ) -> JobState | None:
        """End an attempt that failed, but may succeed another time: the job is tried again after a delay.

        It fails for good with ``error`` where this was its last attempt, or where the next would come after its deadline.

        Args:
            claim: the attempt that ends here.
            worker: whose it is.
            error: why.
            chance: 0.0 to 1.0, for the delay's jitter; see :class:`jobs.retry.RetryPolicy`.
            status: HTTP status for a synchronous caller, if it fails for good.
            result: the engine's error body, likewise.

        Returns:
            The state it is in now; None where this attempt no longer owned it.
        """
        delay_ms = int(self._retry.delay_s(claim.attempt, chance) * 1000)
        return await self._release(
            claim, worker, "retry", error.message, error.code, status, result, delay_ms
        )

    async def release_from_dead_engine(self, claim: Claim, worker: str, message: str) -> JobState | None:
        """Give back a job under which the engine died: at once, but only so often, see :data:`jobs.retry.MAX_KILLS`.

        Returns:
            The state it is in now; None where this attempt no longer owned it.
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
            self._retention_ms,
        )
        return None if reply is None else JobState(reply)

    async def heartbeat(
        self, worker: str, *, first: bool = False, info: Mapping[str, Any] | None = None
    ) -> dict[str, str] | None:
        """Prolong the lease.

        Args:
            worker: the incarnation.
            first: register it.
            info: what it says of itself; of this, ``pool``, ``name``, ``capacity``, ``bulk_capacity`` and ``state``
                matter to the queue.

        Returns:
            Jobs to abort, id to reason, and ``drain`` to seconds or the empty string where the worker is to drain. None: the
            lease is lost, abort everything.
        """
        said = json.dumps(info) if info else ""
        facts = info or {}
        slots = 0 if facts.get("state") == "draining" else facts.get("capacity", 0)
        bulk_slots = min(slots, facts.get("bulk_capacity", slots))
        place = facts.get("pool", ""), facts.get("name", ""), slots, bulk_slots
        reply = await self.scripts.call(
            "worker/heartbeat", worker, self._lease_ttl_ms, int(first), said, *place
        )
        if reply[0] == 0:
            return None
        return dict(zip(reply[1::2], reply[2::2], strict=True))

    async def bury(self, worker: str) -> None:
        """End a worker's lease: it has ended. Jobs it left are taken over in the next round."""
        await self.scripts.call("worker/bury", worker)
