"""How an attempt ends: what is written to the store, for as long as it takes while the lease may still be ours."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import structlog

from broker.attempts import Claim
from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from jobs.failures import FAILURES, FailureCode, code_for_status
from jobs.model import Failed, JobError
from jobs.states import JobState
from monitoring import failpoints
from monitoring.metrics import WorkerMetrics
from workers.attempts.spans import NO_SPANS, AttemptSpans
from workers.attempts.stream import StreamBuffer
from workers.engines.base import Final

log = structlog.get_logger(__name__)

T = TypeVar("T")

_RETRY_S = 0.5

FENCED = "fenced"
RELEASED = "released"
ENGINE_DEAD = "engine_dead"
TIMED_OUT = "timeout"


class _Error(msgspec.Struct):
    message: str = ""
    param: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


_decode_error = msgspec.json.Decoder(_ErrorBody).decode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a queue message.

    Attributes:
        state: the terminal state that this run gave the job; None where it gave none.
        reason: failure code, or why nothing was run, or ``released`` or ``fenced``.
    """

    state: JobState | None
    reason: str | None = None


@dataclass(slots=True)
class Run:
    """One attempt on this worker.

    Attributes:
        claim: the right to run it.
        buffer: what it said and was not written yet.
        task: the engine's run.
        why: why it was stopped, None while it was not.
        on_engine: the engine has, or had, the request.
        abort: the task that stops it gently.
        spans: what is recorded of it.
        began_s: when it was claimed, on a monotonic clock.
        first_s: when its stream said something first; 0.0 before that.
    """

    claim: Claim
    buffer: StreamBuffer
    task: asyncio.Task[Final] | None = None
    why: str | None = None
    on_engine: bool = False
    abort: asyncio.Task[None] | None = None
    spans: AttemptSpans = NO_SPANS
    began_s: float = field(default_factory=time.monotonic)
    first_s: float = 0.0

    def stopped(self) -> bool:
        """Say whether somebody asked for its end."""
        return self.why is not None


class Endings:
    """Writes the ends of a worker's attempts.

    Args:
        store: the job store.
        worker: this worker's incarnation.
        metrics: the worker's metrics.
        max_result_bytes: a larger response fails its job.
    """

    def __init__(self, store: JobStore, worker: str, metrics: WorkerMetrics, max_result_bytes: int) -> None:
        self._store = store
        self._worker = worker
        self._metrics = metrics
        self._max_result_bytes = max_result_bytes

    async def complete(self, run: Run, final: Final) -> Outcome:
        """End a run by what the engine returned."""
        if len(final.body) > self._max_result_bytes:
            message = f"the response has {len(final.body)} bytes, more than max_result_bytes"
            return await self.fail(run, FailureCode.RESULT_TOO_LARGE, message)
        if final.status < 400:
            return await self._finish(run, JobState.SUCCEEDED, final=final)
        try:
            told = _decode_error(final.body).error
        except msgspec.DecodeError:
            told = _Error(final.body[:500].decode(errors="replace"))
        error = JobError(code_for_status(final.status, told.message), told.message, told.param)
        if FAILURES[error.code].retryable:
            return await self.retry(run, error, final)
        return await self._finish(run, JobState.FAILED, final=final, error=error)

    async def fail(self, run: Run, code: FailureCode, message: str, partial: Final | None = None) -> Outcome:
        """Fail a job, for good."""
        final = Final(FAILURES[code].http_status, b"", None)
        error = JobError(code, message[:2000])
        return await self._finish(run, JobState.FAILED, final=final, error=error, partial=partial)

    async def stopped(self, run: Run, final: Final | None = None) -> Outcome:
        """End a run that somebody stopped. ``final``: what the engine returned all the same."""
        if run.why == FENCED:
            self._metrics.fenced.inc()
            return Outcome(None, FENCED)
        if run.why == ENGINE_DEAD and run.on_engine:
            return await self.engine_died(run, "the engine died")
        if run.why in {RELEASED, ENGINE_DEAD}:
            return await self.release(run)
        partial = final if final is not None and final.status < 400 else None
        if partial is not None and len(partial.body) > self._max_result_bytes:
            partial = None
        if run.why == TIMED_OUT:
            limit_s = (run.claim.timeout_ms or 0) / 1000
            return await self.fail(
                run, FailureCode.TIMEOUT, f"it ran longer than its timeout_s, {limit_s:g} s", partial
            )
        return await self._finish(run, JobState(run.why or JobState.CANCELLED), partial=partial)

    async def retry(self, run: Run, error: JobError, final: Final | None = None) -> Outcome:
        """Have the job tried again later, if it may."""
        run.buffer.take()  # what the attempt said is not part of the next one's answer
        status = final.status if final else FAILURES[error.code].http_status
        result = final.body if final else b""
        chance = random.random()
        return await self._give_back(
            run,
            lambda: self._store.retry_later(
                run.claim, self._worker, error, chance, status=status, result=result
            ),
        )

    async def release(self, run: Run) -> Outcome:
        """Give a job back, at no cost to it."""
        return await self._give_back(run, lambda: self._store.release(run.claim, self._worker, RELEASED))

    async def engine_died(self, run: Run, message: str) -> Outcome:
        """Give back a job under which the engine died."""
        return await self._give_back(
            run, lambda: self._store.release_from_dead_engine(run.claim, self._worker, message)
        )

    async def _give_back(self, run: Run, transition: Callable[[], Awaitable[JobState | None]]) -> Outcome:
        """Take the job off this worker, for as long as it takes while the lease may still be ours."""
        failpoints.hit("worker.before_release")
        state = await self._insist(run, "release", transition)
        if state is None:
            return Outcome(None, FENCED)
        if not state.terminal:
            self._metrics.given_back.inc()
            return Outcome(None, RELEASED)
        return Outcome(state, await self._failure_code(run) if state is JobState.FAILED else None)

    async def _insist(self, run: Run, step_name: str, write: Callable[[], Awaitable[T]]) -> T | None:
        """Write, again and again while Redis is away; None: the lease is lost, so that it no longer matters."""
        step = run.spans.step(step_name)
        try:
            while True:
                try:
                    return await write()
                except StoreUnavailableError as error:
                    if run.why == FENCED:
                        return None
                    log.warning("end_delayed", step=step_name, error=str(error))
                    step.event("redis_unavailable")
                    await asyncio.sleep(_RETRY_S)
        finally:
            step.end()

    async def _failure_code(self, run: Run) -> str:
        """Read with which code the store ended a job, for the log and the metrics."""
        try:
            job = await self._store.get(run.claim.id)
        except StoreUnavailableError:
            job = None
        if job is None or not isinstance(job.phase, Failed):
            return FailureCode.INTERNAL
        return job.phase.error.code

    async def _finish(
        self,
        run: Run,
        state: JobState,
        *,
        final: Final | None = None,
        error: JobError | None = None,
        partial: Final | None = None,
    ) -> Outcome:
        """Write the end, for as long as it takes while the lease may still be ours."""
        tail = run.buffer.take()
        failpoints.hit("worker.before_finish")
        usage = next((one.usage for one in (final, partial) if one is not None and one.usage), None)
        written = await self._insist(
            run,
            "finish",
            lambda: self._store.finish(
                run.claim,
                self._worker,
                state,
                status=final.status if final else None,
                result=final.body if final else b"",
                usage=usage,
                error=error,
                partial=partial.body if partial else b"",
                tail=tail,
            ),
        )
        if not written:
            self._metrics.fenced.inc()
            return Outcome(None, FENCED)
        if usage is not None:
            claim = run.claim
            self._metrics.count_tokens(claim.lane, claim.tenant, usage.prompt_tokens, usage.completion_tokens)
        return Outcome(state, error.code if error else None)
