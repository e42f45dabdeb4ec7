"""Runs claimed jobs on the engine. Everything here happens on the engine's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from broker.errors import StoreUnavailableError
from broker.store import Claim, Dropped, JobStore
from jobs.chunks import Chunk
from jobs.failures import FAILURES, FailureCode, code_for_status
from jobs.model import JobError
from jobs.states import JobState
from monitoring.metrics import WorkerMetrics
from workers.engines.base import Engine, EngineDeadError, EngineRequest, Final
from workers.stream import Flusher, StreamBuffer

log = structlog.get_logger(__name__)

_RETRY_S = 0.5

FENCED = "fenced"
RELEASED = "released"


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
class _Run:
    claim: Claim
    task: asyncio.Task[Final] | None = None
    why: str | None = None

    def stopped(self) -> bool:
        """Whether somebody asked for its end."""
        return self.why is not None


class Runner:
    """Claims jobs, runs them and ends them.

    Args:
        engine: a started engine.
        store: the job store.
        worker: this worker's incarnation, whose lease is alive.
        metrics: the worker's metrics.
        max_result_bytes: a larger response fails its job.
        on_engine_dead: told once the engine itself says that it is gone; nothing is claimed from then on.
    """

    def __init__(
        self,
        engine: Engine,
        store: JobStore,
        worker: str,
        metrics: WorkerMetrics,
        max_result_bytes: int,
        on_engine_dead: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._worker = worker
        self._metrics = metrics
        self._max_result_bytes = max_result_bytes
        self._runs: dict[str, _Run] = {}
        self._flusher = Flusher(store, lambda job_id: self.stop(job_id, FENCED))
        self._on_engine_dead = on_engine_dead
        self._closing: str | None = None

    @property
    def running(self) -> int:
        """Jobs on the engine now."""
        return len(self._runs)

    def stop(self, job_id: str, why: str) -> None:
        """Abort a job that runs here: ``why`` is ``cancelled``, ``expired``, ``released`` or ``fenced``. Else no effect."""
        run = self._runs.get(job_id)
        if run is None or run.why is not None:
            return
        run.why = why
        if run.task is not None:
            run.task.cancel()

    def stop_all(self, why: str) -> None:
        """Abort every job that runs here, and those that are still to come."""
        self._closing = why
        for job_id in list(self._runs):
            self.stop(job_id, why)

    async def run(self, job_id: str) -> Outcome:
        """Run the job that a queue message names, if it still gives the right to.

        Never raises for what happens to the job; returns when its record says so.
        """
        if self._closing is not None:
            return Outcome(None, self._closing)  # its message is gone; the reaper pushes another
        claim = await self._claim(job_id)
        if isinstance(claim, Dropped):
            self._metrics.dropped.labels(claim.reason).inc()
            return Outcome(None, claim.reason)
        run = _Run(claim, why=self._closing)
        self._runs[job_id] = run
        self._metrics.running.set(len(self._runs))
        started = time.monotonic()
        try:
            outcome = await self._attempt(run)
        finally:
            del self._runs[job_id]
            self._metrics.running.set(len(self._runs))
        if outcome.state is not None:
            self._metrics.jobs.labels(outcome.state).inc()
            self._metrics.run_time.labels(outcome.state).observe(time.monotonic() - started)
        if outcome.state is JobState.FAILED:
            self._metrics.failures.labels(outcome.reason).inc()
            log.info("job_failed", job=job_id, attempt=claim.attempt, code=outcome.reason)
        return outcome

    async def _claim(self, job_id: str) -> Claim | Dropped:
        """Claim; when Redis is away the message is dropped, and the reaper pushes the job again."""
        try:
            return await self._store.claim(job_id, self._worker)
        except StoreUnavailableError as error:
            log.warning("claim_failed", job=job_id, error=str(error))
            return Dropped("redis_unavailable")

    async def _attempt(self, run: _Run) -> Outcome:
        claim = run.claim
        buffer = StreamBuffer(claim.id, claim.attempt)

        def emit(chunk: Chunk) -> None:
            buffer.put(chunk)
            self._flusher.touch(buffer)

        request = EngineRequest(
            claim.id, claim.endpoint, claim.body, claim.stream, claim.lane.engine_priority
        )
        if run.stopped():
            return await self._stopped(run, buffer)
        run.task = asyncio.get_running_loop().create_task(self._engine.run(request, emit))
        try:
            final = await run.task
        except asyncio.CancelledError:
            if run.stopped():
                return await self._stopped(run, buffer)
            run.task.cancel()
            raise
        except EngineDeadError as error:
            return await self._engine_dead(run, error)
        except Exception as error:
            log.exception("run_crashed", job=claim.id, attempt=claim.attempt)
            return await self._fail(run, buffer, FailureCode.INTERNAL, f"{type(error).__name__}: {error}")
        return await self._end(run, buffer, final)

    async def _end(self, run: _Run, buffer: StreamBuffer, final: Final) -> Outcome:
        if len(final.body) > self._max_result_bytes:
            message = f"the response has {len(final.body)} bytes, more than max_result_bytes"
            return await self._fail(run, buffer, FailureCode.RESULT_TOO_LARGE, message)
        if final.status < 400:
            if final.usage is not None:
                self._metrics.tokens.labels("prompt").inc(final.usage.prompt_tokens)
                self._metrics.tokens.labels("completion").inc(final.usage.completion_tokens)
            return await self._finish(run, buffer, JobState.SUCCEEDED, final=final)
        try:
            told = _decode_error(final.body).error
        except msgspec.DecodeError:
            told = _Error(final.body[:500].decode(errors="replace"))
        code = code_for_status(final.status, told.message)
        return await self._finish(
            run, buffer, JobState.FAILED, final=final, error=JobError(code, told.message, told.param)
        )

    async def _fail(self, run: _Run, buffer: StreamBuffer, code: FailureCode, message: str) -> Outcome:
        final = Final(FAILURES[code].http_status, b"", None)
        return await self._finish(
            run, buffer, JobState.FAILED, final=final, error=JobError(code, message[:2000])
        )

    async def _engine_dead(self, run: _Run, error: EngineDeadError) -> Outcome:
        """Give the job back; where it is the engine itself that is gone, claim nothing more."""
        log.warning("engine_dead", job=run.claim.id, attempt=run.claim.attempt, error=str(error))
        try:
            await self._engine.check()
        except EngineDeadError:
            self._closing = self._closing or RELEASED
            self._on_engine_dead(str(error))
        else:  # a broken connection, say: not at once again
            await asyncio.sleep(_RETRY_S * run.claim.attempt)
        return await self._release(run, str(error)[:500], FailureCode.ENGINE_UNAVAILABLE)

    async def _stopped(self, run: _Run, buffer: StreamBuffer) -> Outcome:
        if run.why == FENCED:
            self._metrics.fenced.inc()
            return Outcome(None, FENCED)
        if run.why == RELEASED:
            return await self._release(run, RELEASED)
        return await self._finish(run, buffer, JobState(run.why or JobState.CANCELLED))

    async def _release(self, run: _Run, reason: str, failure: FailureCode | None = None) -> Outcome:
        while True:
            try:
                state = await self._store.release(run.claim, self._worker, reason, failure)
            except StoreUnavailableError as error:
                if run.why == FENCED:
                    return Outcome(None, FENCED)
                log.warning("release_delayed", job=run.claim.id, error=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            if state is None:
                return Outcome(None, FENCED)
            return Outcome(state, failure) if state.terminal else Outcome(None, RELEASED)

    async def _finish(
        self,
        run: _Run,
        buffer: StreamBuffer,
        state: JobState,
        *,
        final: Final | None = None,
        error: JobError | None = None,
    ) -> Outcome:
        """Write the end, for as long as it takes while the lease may still be ours."""
        tail = buffer.take()
        while True:
            try:
                written = await self._store.finish(
                    run.claim,
                    self._worker,
                    state,
                    status=final.status if final else None,
                    result=final.body if final else b"",
                    usage=final.usage if final else None,
                    error=error,
                    tail=tail,
                )
            except StoreUnavailableError as failure:
                if run.why == FENCED:
                    return Outcome(None, FENCED)
                log.warning("finish_delayed", job=run.claim.id, error=str(failure))
                await asyncio.sleep(_RETRY_S)
                continue
            if not written:
                self._metrics.fenced.inc()
                return Outcome(None, FENCED)
            return Outcome(state, error.code if error else None)
