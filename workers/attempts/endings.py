"""The end of an attempt: one method for each way to end, each of which writes until Redis has it or the lease is lost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog

from broker.db.errors import StoreError, StoreFaultError, StoreUnavailableError
from broker.jobs import JobStore
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FAILURES, FailureCode, code_for_status
from jobs.model import Failed, JobError
from jobs.poison import Kind, kind_of
from jobs.states import JobState
from monitoring import failpoints
from monitoring.metrics import WorkerMetrics
from storage import StorageError, UnreadableObjectError
from workers.attempts.attempt import Attempt, Outcome
from workers.attempts.reasons import STOP_RULES, StopReason
from workers.engines.base import AdapterBrokenError, Engine, Final, death_counts
from workers.inputs import NoSuchFileError

log = structlog.get_logger(__name__)

T = TypeVar("T")

_RETRY_S = 0.5


class _Error(msgspec.Struct):
    message: str = ""
    param: str | None = None
    code: Any = None


class _ErrorBody(msgspec.Struct):
    error: _Error


_decode_error = msgspec.json.Decoder(_ErrorBody).decode


class Endings:
    """Writes the ends of a worker's attempts.

    Args:
        engine: runs the attempts.
        worker: this worker's incarnation.
        max_result_bytes: a larger response fails its job.
        device_share: devices of this worker for each of its slots.
    """

    def __init__(
        self,
        engine: Engine,
        store: JobStore,
        worker: str,
        metrics: WorkerMetrics,
        max_result_bytes: int,
        device_share: float,
    ) -> None:
        self._engine = engine
        self._store = store
        self._worker = worker
        self._metrics = metrics
        self._max_result_bytes = max_result_bytes
        self._device_share = device_share

    async def complete(self, attempt: Attempt, final: Final) -> Outcome:
        """End an attempt by the engine's answer."""
        if len(final.body) > self._max_result_bytes:
            message = f"the response has {len(final.body)} bytes, more than max_result_bytes"
            return await self.fail(attempt, FailureCode.RESULT_TOO_LARGE, message)
        if final.status < 400:
            return await self._finish(attempt, JobState.SUCCEEDED, final=final)
        try:
            told = _decode_error(final.body).error
        except msgspec.DecodeError:
            told = _Error(final.body[:500].decode(errors="replace"))
        error = JobError(code_for_status(final.status, told.message, told.code), told.message, told.param)
        if FAILURES[error.code].retryable:
            return await self.retry(attempt, error, final)
        return await self._finish(attempt, JobState.FAILED, final=final, error=error)

    async def fail(
        self, attempt: Attempt, code: FailureCode, message: str, partial: Final | None = None
    ) -> Outcome:
        """Fail a job for good."""
        final = Final(FAILURES[code].http_status, b"", None)
        error = JobError(code, message[:2000])
        return await self._finish(attempt, JobState.FAILED, final=final, error=error, partial=partial)

    async def unreadable(self, attempt: Attempt, error: JobError) -> Outcome:
        """End an attempt at a job whose request could not be decrypted. Another worker may have the key."""
        log.warning("request_unreadable", code=error.code, error=error.message)
        if FAILURES[error.code].retryable:
            return await self.retry(attempt, error)
        return await self.fail(attempt, error.code, error.message)

    async def unfetched(
        self,
        attempt: Attempt,
        error: StorageError | StoreUnavailableError | NoSuchFileError | AdapterBrokenError,
    ) -> Outcome:
        """End an attempt at a job whose request, file or adapter could not be read. Another worker may do it."""
        if isinstance(error, NoSuchFileError):
            return await self.fail(attempt, FailureCode.FILE_NOT_FOUND, str(error))
        if isinstance(error, AdapterBrokenError):
            return await self.fail(attempt, FailureCode.ADAPTER_BROKEN, str(error))
        if isinstance(error, UnreadableObjectError):
            return await self.unreadable(attempt, JobError(error.code, str(error)))
        reason = error.reason if isinstance(error, StorageError) else "redis_unavailable"
        log.warning("request_not_fetched", reason=reason, error=str(error))
        message = (
            f"the worker could not read the request, or its LoRA adapter, from the storage of files: {error}"
        )
        return await self.retry(attempt, JobError(FailureCode.STORAGE_UNAVAILABLE, message[:500]))

    async def stopped(self, attempt: Attempt, reason: StopReason, final: Final | None = None) -> Outcome:
        """End an attempt that was stopped. ``final``: the engine's answer, if it gave one."""
        rule = STOP_RULES[reason]
        if reason is StopReason.FENCED:
            self._metrics.fenced.inc()
            return Outcome(None, reason)
        if rule.ends_job is None:
            if reason is StopReason.ENGINE_DEAD:
                return await self.engine_died(attempt, "the engine died", reached=attempt.on_engine)
            return await self.release(attempt)
        partial = final if rule.keeps_partial and final is not None and final.status < 400 else None
        if partial is not None and len(partial.body) > self._max_result_bytes:
            partial = None
        if reason is StopReason.TIMEOUT:
            limit_s = (attempt.claim.timeout_ms or 0) / 1000
            message = f"it ran longer than its timeout_s, {limit_s:g} s"
            return await self.fail(attempt, FailureCode.TIMEOUT, message, partial)
        return await self._finish(attempt, rule.ends_job, partial=partial)

    async def retry(self, attempt: Attempt, error: JobError, final: Final | None = None) -> Outcome:
        """Have the job tried again later, if it may."""
        attempt.buffer.take()  # this attempt's text is not part of the next one's answer
        status = final.status if final else FAILURES[error.code].http_status
        result = final.body if final else b""
        chance = random.random()
        try:
            return await self._give_back(
                attempt,
                lambda: self._store.retry_later(
                    attempt.claim,
                    self._worker,
                    error,
                    chance,
                    status=status,
                    result=result,
                    device_us=self._device_us(attempt),
                ),
            )
        except StoreFaultError:
            return await self._finish(attempt, JobState.FAILED, final=final, error=error)

    async def release(self, attempt: Attempt) -> Outcome:
        """Give a job back, at no cost to it."""
        return await self._give_back(
            attempt, lambda: self._store.release(attempt.claim, self._worker, StopReason.RELEASED)
        )

    async def engine_died(self, attempt: Attempt, message: str, *, reached: bool) -> Outcome:
        """Give back a job under which the engine died. ``reached``: the engine had its request."""
        if not reached:
            return await self.release(attempt)
        if not death_counts(self._engine, reached=reached):
            return await self.retry(attempt, JobError(FailureCode.ENGINE_UNAVAILABLE, message))
        kind = _kind(attempt)
        return await self._give_back(
            attempt, lambda: self._store.release_from_dead_engine(attempt.claim, self._worker, message, kind)
        )

    async def crashed(self, attempt: Attempt, error: Exception) -> Outcome:
        """Have a job tried again after our own code failed: the record must not stay as running.

        Raises:
            Exception: this failed, too.
        """
        message = f"{type(error).__name__}: {error}"[:500].encode(errors="replace").decode()
        return await self.retry(attempt, JobError(FailureCode.INTERNAL, message))

    async def _give_back(
        self, attempt: Attempt, transition: Callable[[], Awaitable[JobState | None]]
    ) -> Outcome:
        """Take the job off this worker."""
        failpoints.hit("worker.before_release")
        state = await self._insist(attempt, "release", transition)
        if state is None:
            return Outcome(None, StopReason.FENCED)
        if not state.terminal:
            self._metrics.given_back.inc()
            return Outcome(None, StopReason.RELEASED)
        return Outcome(state, await self._failure_code(attempt) if state is JobState.FAILED else None)

    async def _insist(self, attempt: Attempt, step_name: str, write: Callable[[], Awaitable[T]]) -> T | None:
        """Write, again and again while Redis is away. None: the lease is lost, so the write no longer matters.

        Raises:
            StoreFaultError: Redis refuses the write, now and later.
        """
        step = attempt.spans.step(step_name)
        try:
            while True:
                try:
                    return await write()
                except StoreUnavailableError as error:
                    if attempt.stop is StopReason.FENCED:
                        return None
                    log.warning("end_delayed", step=step_name, error=str(error))
                    step.event("redis_unavailable")
                    await asyncio.sleep(_RETRY_S)
        finally:
            step.end()

    def _device_us(self, attempt: Attempt) -> int:
        """Return the microseconds of device that an attempt took until now: its share of the worker's devices."""
        ran_s = time.monotonic() - attempt.began_s if attempt.on_engine else 0.0
        return round(ran_s * self._device_share * 1e6)

    async def _failure_code(self, attempt: Attempt) -> str:
        """Read with which code the store failed a job, for the log and the metrics."""
        try:
            job = await self._store.get(attempt.claim.id)
        except StoreError:
            job = None
        if job is None or not isinstance(job.phase, Failed):
            return FailureCode.INTERNAL
        return job.phase.error.code

    async def _finish(
        self,
        attempt: Attempt,
        state: JobState,
        *,
        final: Final | None = None,
        error: JobError | None = None,
        partial: Final | None = None,
    ) -> Outcome:
        """Write the job's end. If Redis refuses it for a fault, the job fails, with an end that is as small as can be."""
        tail = attempt.buffer.take()
        failpoints.hit("worker.before_finish")
        usage = next((one.usage for one in (final, partial) if one is not None and one.usage), None)
        device_us = self._device_us(attempt)

        async def write() -> bool:
            return await self._store.finish(
                attempt.claim,
                self._worker,
                state,
                status=final.status if final else None,
                result=final.body if final else b"",
                usage=usage,
                error=error,
                partial=partial.body if partial else b"",
                tail=tail,
                device_us=device_us,
            )

        try:
            written = await self._insist(attempt, "finish", write)
        except StoreFaultError:
            if not (tail or final or partial):
                raise
            state, final, partial, tail = JobState.FAILED, None, None, []
            error = JobError(
                FailureCode.INTERNAL, "Redis refused to store the job's end; the worker's log says why"
            )
            written = await self._insist(attempt, "finish", write)
        if not written:
            self._metrics.fenced.inc()
            return Outcome(None, StopReason.FENCED)
        claim = attempt.claim
        if (
            usage is not None and claim.endpoint != CHUNK_ENDPOINT
        ):  # rows of a batch count when they are committed
            self._metrics.count_tokens(claim.lane, claim.tenant, usage.prompt_tokens, usage.completion_tokens)
        return Outcome(state, error.code if error else None)


def _kind(attempt: Attempt) -> Kind | None:
    """Return the kind of a suspect's request; None: it has none."""
    claim = attempt.claim
    if not attempt.suspect or claim.endpoint == CHUNK_ENDPOINT:
        return None
    try:
        request = msgspec.json.decode(attempt.suspect)
    except msgspec.DecodeError:
        return None
    return kind_of(claim.endpoint, claim.model, request) if isinstance(request, dict) else None
