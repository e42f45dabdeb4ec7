"""Runs claimed jobs on the engine. Everything here happens on the engine's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path

import structlog
from msgspec.structs import replace
from structlog.contextvars import bind_contextvars

from broker.claims import Claim
from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.states import JobState
from jobs.stream_chunks import Chunk, Head, Text
from monitoring import failpoints
from monitoring.metrics import WorkerMetrics
from monitoring.trace_context import TraceContext
from monitoring.tracing import NO_SPAN, Tracer
from storage import StorageError
from workers.attempts.accounts import Accounts
from workers.attempts.attempt import Attempt, Outcome
from workers.attempts.endings import Endings
from workers.attempts.quarantine import Quarantine
from workers.attempts.reasons import STOP_RULES, StopReason
from workers.attempts.spans import begin_attempt
from workers.attempts.stream import Flusher, StreamBuffer
from workers.engines.base import (
    AdapterBrokenError,
    Engine,
    EngineDeadError,
    EngineRequest,
    Final,
    being_cancelled,
    record_final,
)
from workers.inputs import Inputs, NoSuchFileError

log = structlog.get_logger(__name__)

_ABORT_GRACE_S = 0.5  # for the engine to return what it has; then the run is cancelled


class Runner:
    """Runs claimed jobs and ends them.

    Args:
        engine: a started engine.
        worker: this worker's incarnation, whose lease is alive.
        pool: the pool whose lanes it drains.
        quarantine: lets one suspect in at a time.
        max_result_bytes: a larger response fails its job.
        device_share: devices of this worker for each of its slots.
        inputs: reads what a request needs.
        adapter_for: keeps a model's LoRA adapter loaded while a request runs.
        share_prefixes: requests of all tenants find each other's prefixes in the engine's cache.
        run_chunk: runs a chunk of a batch, given its place in a trace, and what to call once the engine gets a row of it;
            raises as an engine does.
        abort_chunk: ends a chunk early; finished rows are kept.
        die: ends the worker, since it cannot go on, with the reason.
    """

    def __init__(
        self,
        engine: Engine,
        store: JobStore,
        worker: str,
        *,
        pool: str,
        quarantine: Quarantine,
        metrics: WorkerMetrics,
        tracer: Tracer,
        max_result_bytes: int,
        device_share: float,
        inputs: Inputs,
        adapter_for: Callable[[str], AbstractAsyncContextManager[Path | None]],
        share_prefixes: bool,
        run_chunk: Callable[[Claim, TraceContext | None, Callable[[], None]], Awaitable[Final]],
        abort_chunk: Callable[[str], None],
        die: Callable[[str], None],
    ) -> None:
        self._engine, self._store, self._worker, self._pool = engine, store, worker, pool
        self._quarantine, self._metrics, self._tracer = quarantine, metrics, tracer
        self._share_prefixes, self._inputs, self._adapter_for = share_prefixes, inputs, adapter_for
        self._run_chunk, self._abort_chunk = run_chunk, abort_chunk
        self._die = die
        self._endings = Endings(engine, store, worker, metrics, max_result_bytes, device_share)
        self._flusher = Flusher(store, self._on_refused)
        self._attempts: dict[str, Attempt] = {}
        self._stuck: set[str] = set()  # jobs that could neither end nor be given back
        self._closing: StopReason | None = None
        self.engine_died = False
        self.accounts = Accounts(metrics)

    @property
    def running(self) -> int:
        """Attempts that run here now."""
        return len(self._attempts)

    def ids(self) -> frozenset[str]:
        """Return the jobs that only this runner, or the end of the lease, may take off this worker."""
        return frozenset(self._attempts) | self._stuck

    @property
    def releases(self) -> int:
        """How often the jobs that run here were given back before, at most. Chunks do not count: they keep their rows."""
        jobs = (one.claim for one in self._attempts.values())
        return max((job.releases for job in jobs if job.endpoint != CHUNK_ENDPOINT), default=0)

    def stop(self, job_id: str, reason: StopReason) -> None:
        """Stop a job that runs here. No effect on any other, nor on one that is stopped already."""
        attempt = self._attempts.get(job_id)
        if attempt is None or attempt.stop is not None:
            return
        attempt.stop = reason
        if attempt.task is None:
            return
        if STOP_RULES[reason].cancels_task or not attempt.on_engine:
            attempt.task.cancel()
        else:
            attempt.abort = asyncio.get_running_loop().create_task(self._abort(attempt.task, job_id))

    def stop_all(self, reason: StopReason) -> None:
        """Stop every job that runs here, and those that are still to come."""
        self._closing = reason
        self._stop_running(reason)

    def release(self) -> None:
        """Give back every job that runs here now. Those that are still to come run."""
        self._stop_running(StopReason.RELEASED)

    def _stop_running(self, reason: StopReason) -> None:
        for job_id in list(self._attempts):
            self.stop(job_id, reason)

    async def _abort(self, task: asyncio.Task[Final], job_id: str) -> None:
        """Have the engine end a run and return what it has; cancel the run if that takes too long."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_ABORT_GRACE_S):
                    self._abort_chunk(job_id)
                    await self._engine.abort(job_id)
                    await asyncio.wait({task})
        except Exception:
            log.exception("abort_failed", job_id=job_id)
        finally:
            task.cancel()

    def _on_refused(self, job_id: str, number: int) -> None:
        attempt = self._attempts.get(job_id)
        if attempt is not None and attempt.claim.attempt == number:
            self.stop(job_id, StopReason.FENCED)

    async def run(self, claim: Claim, asked_ns: int) -> Outcome:
        """Run a claimed job.

        Args:
            asked_ns: when the claim was sent, Unix nanoseconds.

        Never raises for what happens to the job; returns when its record says so.
        """
        bind_contextvars(job_id=claim.id)  # each run has a task of its own, so nothing has to be unbound
        attempt = self._attempts[claim.id] = Attempt(
            claim, StreamBuffer(claim.id, claim.attempt), stop=self._closing
        )
        self.accounts.begin(attempt)
        outcome = Outcome(None, "crashed")
        try:
            failpoints.hit("worker.after_claim")
            self._begin_spans(attempt, asked_ns)
            outcome = await self._carry_out(attempt)
        except Exception as error:
            log.exception("attempt_crashed", attempt=claim.attempt)
            outcome = await self._rescue(attempt, error)
        finally:
            attempt.spans.end(outcome.state, outcome.reason)
            if self._attempts.get(claim.id) is attempt:
                del self._attempts[claim.id]
            self._quarantine.leave(claim)
            self.accounts.end(attempt, outcome)
        _report(attempt, outcome)
        return outcome

    def _begin_spans(self, attempt: Attempt, asked_ns: int) -> None:
        claim = attempt.claim
        queue = self._store.keys("queue", self._pool, claim.lane)
        attempt.spans = spans = begin_attempt(self._tracer, claim, self._worker, queue, asked_ns)
        if spans.span.context is not None:
            bind_contextvars(trace_id=spans.span.context.trace_id)
        log.debug("job_claimed", attempt=claim.attempt, queue=queue, waited_ms=claim.waited_ms)

    async def _rescue(self, attempt: Attempt, error: Exception) -> Outcome:
        """Give back a job whose attempt our own code broke. If that fails, too, only the lease's end frees the job."""
        if attempt.task is not None:
            attempt.task.cancel()
        try:
            return await self._endings.crashed(attempt, error)
        except Exception:
            log.exception("job_not_given_back", attempt=attempt.claim.attempt)
            self._stuck.add(attempt.claim.id)
            self._die(f"{attempt.claim.id} can neither end nor be given back")
            return Outcome(None, "crashed")

    async def _carry_out(self, attempt: Attempt) -> Outcome:
        """Run an attempt on the engine, and write its end."""
        claim, endings = attempt.claim, self._endings
        if reason := attempt.stopped():
            return await endings.stopped(attempt, reason)
        if claim.unreadable is not None:
            return await endings.unreadable(attempt, claim.unreadable)
        return await self._carry_through(attempt)

    async def _carry_through(self, attempt: Attempt) -> Outcome:
        """As :meth:`_carry_out`, of an attempt that has not been stopped and whose request is there."""
        claim, endings = attempt.claim, self._endings
        attempt.task = asyncio.get_running_loop().create_task(self._execute(attempt))
        try:
            final = await attempt.task
        except asyncio.CancelledError:
            if reason := attempt.stopped():
                return await endings.stopped(attempt, reason)
            attempt.task.cancel()
            if being_cancelled():
                raise
            raise RuntimeError("the engine's own code cancelled the run") from None
        except EngineDeadError as error:
            return await self._engine_dead(attempt, error)
        except (StorageError, StoreUnavailableError, NoSuchFileError, AdapterBrokenError) as error:
            return await endings.unfetched(attempt, error)
        except Exception as error:
            log.exception("run_crashed", attempt=claim.attempt)
            return await endings.fail(attempt, FailureCode.INTERNAL, f"{type(error).__name__}: {error}")
        self.accounts.answered(attempt, final)
        if reason := attempt.stopped():
            return await endings.stopped(attempt, reason, final)
        return await endings.complete(attempt, final)

    async def _execute(self, attempt: Attempt) -> Final:
        claim, buffer = attempt.claim, attempt.buffer
        span, timer = NO_SPAN, None

        def emit(chunk: Chunk) -> None:
            if span.recording and not buffer.begun:
                span.event("first_token")
            if attempt.stop is not None and not isinstance(chunk, Text):
                return  # the end event says how an aborted stream is closed
            if not attempt.first_s and not isinstance(chunk, Head):
                attempt.first_s = time.monotonic()
            buffer.append(chunk)
            self._flusher.schedule(buffer)

        body, upload = await self._inputs.of(claim)
        attempt.suspect = body if claim.kills else b""
        with self._quarantine.window(claim) if claim.kills else nullcontext():
            if claim.timeout_ms is not None:
                limit_s = claim.timeout_ms / 1000
                timer = asyncio.get_running_loop().call_later(
                    limit_s, self.stop, claim.id, StopReason.TIMEOUT
                )
            span = attempt.spans.engine(claim, self._engine.name)
            request = EngineRequest(
                claim.id,
                claim.endpoint,
                body,
                claim.stream,
                claim.lane.engine_priority,
                claim.attempt,
                {} if span.context is None else span.context.headers(),
                partial(span.event, "handed_over") if span.recording else None,
                None if self._share_prefixes else claim.tenant,
                upload,
            )
            try:
                if claim.endpoint == CHUNK_ENDPOINT:
                    final = await self._run_chunk(claim, span.context, attempt.reaches_engine)
                else:
                    async with self._adapter_for(claim.model) as adapter:
                        attempt.reaches_engine()  # while it waited for its adapter, no death was its fault
                        final = await self._engine.run(replace(request, adapter=adapter), emit)
                record_final(span, final)
            except BaseException as error:
                span.error(type(error).__name__)
                raise
            finally:
                if timer is not None:
                    timer.cancel()
                if span.recording:
                    span.end()
            return final

    async def _engine_dead(self, attempt: Attempt, error: EngineDeadError) -> Outcome:
        """Give the job back. If the engine itself is dead, claim nothing more."""
        log.warning("engine_dead", attempt=attempt.claim.attempt, error=str(error))
        message = str(error)[:500]
        try:
            await self._engine.check()
        except EngineDeadError:
            self.engine_died = True
            self._closing = self._closing or StopReason.RELEASED
            for other in list(self._attempts.values()):
                if not other.on_engine:
                    self.stop(other.claim.id, StopReason.RELEASED)
            self._die(f"the engine died: {message}")
        else:  # a broken connection, say
            return await self._endings.retry(attempt, JobError(FailureCode.ENGINE_UNAVAILABLE, message))
        return await self._endings.engine_died(attempt, message, reached=error.reached)


def _report(attempt: Attempt, outcome: Outcome) -> None:
    """Log the outcome of an attempt."""
    run_ms = round((time.monotonic() - attempt.began_s) * 1000)
    facts = {"attempt": attempt.claim.attempt, "run_ms": run_ms}
    if outcome.state is JobState.FAILED:
        log.info("job_failed", code=outcome.reason, **facts)
    elif outcome.state is not None:
        log.debug("job_finished", state=outcome.state.value, **facts)
    else:  # the job goes on, here or elsewhere
        log.info("attempt_given_up", reason=outcome.reason, **facts)
