"""Runs claimed jobs on the engine. Everything here happens on the engine's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext

import structlog
from structlog.contextvars import bind_contextvars

from broker.attempts import Claim, Dropped
from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.states import JobState
from jobs.stream_chunks import Chunk, Head, Text
from monitoring import failpoints
from monitoring.metrics import WorkerMetrics
from monitoring.tracing import NO_SPAN, Tracer
from workers.attempts.accounts import Accounts
from workers.attempts.endings import ENGINE_DEAD, FENCED, RELEASED, TIMED_OUT, Endings, Outcome, Run
from workers.attempts.quarantine import Quarantine
from workers.attempts.spans import begin_attempt, note_final
from workers.attempts.stream import Flusher, StreamBuffer
from workers.batches.chunk import BulkRuns
from workers.engines.base import Engine, EngineDeadError, EngineRequest, Final
from workers.process.pulse import Pulse

log = structlog.get_logger(__name__)

_ABORT_GRACE_S = 0.5  # for an engine to tell how far it came; then the run is cancelled
_SUSPECT_WINDOW_S = 5.0


class Runner:
    """Claims jobs, runs them and ends them.

    Args:
        engine: a started engine.
        store: the job store.
        worker: this worker's incarnation, whose lease is alive.
        metrics: the worker's metrics.
        max_result_bytes: a larger response fails its job.
        tracer: the worker's tracer.
        pool: the pool whose lanes it drains.
        on_engine_dead: told once the engine itself says that it is gone; nothing is claimed from then on.
        bulk: runs the chunks of batches.
    """

    def __init__(
        self,
        engine: Engine,
        store: JobStore,
        worker: str,
        metrics: WorkerMetrics,
        max_result_bytes: int,
        on_engine_dead: Callable[[str], None],
        *,
        tracer: Tracer,
        pool: str,
        bulk: BulkRuns,
    ) -> None:
        self._engine = engine
        self._bulk = bulk
        self._store = store
        self._worker = worker
        self._metrics = metrics
        self._accounts = Accounts(metrics)
        self._endings = Endings(store, worker, metrics, max_result_bytes)
        self._runs: dict[str, Run] = {}
        self._flusher = Flusher(store, self._on_refused)
        self._quarantine = Quarantine(_SUSPECT_WINDOW_S)
        self._on_engine_dead = on_engine_dead
        self._closing: str | None = None
        self.pulse = Pulse()
        self._tracer = tracer
        self._pool = pool

    @property
    def running(self) -> int:
        """Jobs on the engine now."""
        return len(self._runs)

    def stop(self, job_id: str, why: str) -> None:
        """Abort a job that runs here. No effect on any other.

        Args:
            job_id: the job.
            why: ``cancelled``, ``expired`` or ``timeout``, which end it and keep what it generated; or ``released``,
                ``engine_dead`` or ``fenced``.
        """
        run = self._runs.get(job_id)
        if run is None or run.why is not None:
            return
        run.why = why
        if run.task is None:
            return
        if why in {RELEASED, FENCED, ENGINE_DEAD} or not run.on_engine:
            run.task.cancel()
        else:
            run.abort = asyncio.get_running_loop().create_task(self._abort(run.task, job_id))

    async def _abort(self, task: asyncio.Task[Final], job_id: str) -> None:
        """Have the engine end a run and tell how far it came; cancel it where that takes too long."""
        try:
            async with asyncio.timeout(_ABORT_GRACE_S):
                self._bulk.abort(job_id)
                await self._engine.abort(job_id)
                await asyncio.wait({task})
        except TimeoutError:
            pass
        except Exception:
            log.exception("abort_failed", job_id=job_id)
        finally:
            task.cancel()

    def _on_refused(self, job_id: str, attempt: int) -> None:
        run = self._runs.get(job_id)
        if run is not None and run.claim.attempt == attempt:
            self.stop(job_id, FENCED)

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
        bind_contextvars(job_id=job_id)  # a run is a task of its own: there is nothing to take back
        asked_ns = time.time_ns()
        claim = await self._claim(job_id)
        if isinstance(claim, Dropped):
            self._metrics.dropped.labels(claim.reason).inc()
            log.debug("message_dropped", reason=claim.reason)
            return Outcome(None, claim.reason)
        failpoints.hit("worker.after_claim")
        queue = self._store.keys("queue", self._pool, claim.lane)
        spans = begin_attempt(self._tracer, claim, self._worker, queue, asked_ns)
        if spans.span.context is not None:
            bind_contextvars(trace_id=spans.span.context.trace_id)
        self.pulse.claimed(claim.waited_ms)
        log.debug("job_claimed", attempt=claim.attempt, queue=queue, waited_ms=claim.waited_ms)
        run = Run(claim, StreamBuffer(claim.id, claim.attempt), why=self._closing, spans=spans)
        self._runs[job_id] = run
        self._accounts.begin(run)
        outcome = Outcome(None, "crashed")
        try:
            outcome = await self._attempt(run)
        finally:
            spans.end(outcome.state, outcome.reason)
            if self._runs.get(job_id) is run:
                del self._runs[job_id]
            self._accounts.end(run, outcome)
        self._report(run, outcome)
        return outcome

    def _report(self, run: Run, outcome: Outcome) -> None:
        """Log what became of an attempt."""
        facts = {"attempt": run.claim.attempt, "run_ms": round((time.monotonic() - run.began_s) * 1000)}
        if outcome.state is not None:
            self.pulse.ended()
        if outcome.state is JobState.FAILED:
            log.info("job_failed", code=outcome.reason, **facts)
        elif outcome.state is not None:
            log.debug("job_finished", state=outcome.state.value, **facts)
        else:  # the job goes on, here or elsewhere
            log.info("attempt_given_up", reason=outcome.reason, **facts)

    async def _claim(self, job_id: str) -> Claim | Dropped:
        """Claim; where Redis refuses, the message is dropped, and the reaper pushes the job again."""
        try:
            return await self._store.claim(job_id, self._worker)
        except StoreUnavailableError as error:
            log.warning("claim_failed", job_id=job_id, error=str(error))
            return Dropped("redis_unavailable")

    async def _attempt(self, run: Run) -> Outcome:
        claim, endings = run.claim, self._endings
        if run.stopped():
            return await endings.stopped(run)
        loop = asyncio.get_running_loop()
        run.task = loop.create_task(self._execute(run))
        timer = None
        if claim.timeout_ms is not None:
            timer = loop.call_later(claim.timeout_ms / 1000, self.stop, claim.id, TIMED_OUT)
        try:
            final = await run.task
        except asyncio.CancelledError:
            if run.stopped():
                return await endings.stopped(run)
            run.task.cancel()
            raise
        except EngineDeadError as error:
            return await self._engine_dead(run, error)
        except Exception as error:
            log.exception("run_crashed", attempt=claim.attempt)
            return await endings.fail(run, FailureCode.INTERNAL, f"{type(error).__name__}: {error}")
        finally:
            if timer is not None:
                timer.cancel()
        self._accounts.streamed(run, final)
        return await (endings.stopped(run, final) if run.stopped() else endings.complete(run, final))

    async def _execute(self, run: Run) -> Final:
        claim, buffer = run.claim, run.buffer
        span = NO_SPAN

        def emit(chunk: Chunk) -> None:
            if span.recording and not buffer.begun:
                span.event("first_token")
            if run.why is not None and not isinstance(chunk, Text):
                return  # how an aborted stream is closed is the end event's to say
            if not run.first_s and not isinstance(chunk, Head):
                run.first_s = time.monotonic()
            buffer.put(chunk)
            self._flusher.touch(buffer)

        async with self._quarantine.alone() if claim.kills else nullcontext():
            span = run.spans.engine(claim, self._engine.name)
            request = EngineRequest(
                claim.id,
                claim.endpoint,
                claim.body,
                claim.stream,
                claim.lane.engine_priority,
                claim.attempt,
                {} if span.context is None else span.context.headers(),
            )
            run.on_engine = True
            try:
                if claim.endpoint == CHUNK_ENDPOINT:
                    final = await self._bulk.run(claim, span.context)
                else:
                    final = await self._engine.run(request, emit)
                note_final(span, final)
                self.pulse.answered(final.usage.completion_tokens if final.usage else 0)
            except BaseException as error:
                span.error(type(error).__name__)
                raise
            finally:
                if span.recording:
                    span.end()
            return final

    async def _engine_dead(self, run: Run, error: EngineDeadError) -> Outcome:
        """Give the job back; where it is the engine itself that is gone, claim nothing more."""
        log.warning("engine_dead", attempt=run.claim.attempt, error=str(error))
        message = str(error)[:500]
        try:
            await self._engine.check()
        except EngineDeadError:
            self._closing = self._closing or RELEASED
            for other in list(self._runs.values()):
                if not other.on_engine:
                    self.stop(other.claim.id, RELEASED)
            self._on_engine_dead(message)
        else:  # a broken connection, say
            return await self._endings.retry(run, JobError(FailureCode.ENGINE_UNAVAILABLE, message))
        if error.reached:
            return await self._endings.engine_died(run, message)
        return await self._endings.release(run)
