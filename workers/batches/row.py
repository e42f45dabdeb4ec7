"""Running one row of a batch: on the engine, again where that makes sense, to one response or one failure."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import structlog

from broker.attempts import Claim
from broker.batch_chunks import ChunkSpec
from jobs.batch_rows import Row, failure_body, json_or_failure
from jobs.failures import FAILURES, FailureCode, code_for_status
from jobs.retry import RetryPolicy
from monitoring.trace_context import TraceContext
from monitoring.tracing import Tracer
from workers.attempts.spans import begin_row, note_final
from workers.engines.base import Engine, EngineDeadError, EngineRequest, Final

log = structlog.get_logger(__name__)

ROW_ATTEMPTS = 3
"""Tries of a row whose engine fails in a way that another try could mend."""


@dataclass(slots=True)
class Attempt:
    """An attempt at a chunk, as its rows see it.

    Attributes:
        claim: the chunk's.
        spec: the chunk.
        writer: the number under which this attempt writes.
        place: its place in a trace, to which the rows' own traces link.
        dead: the first sign that the engine died under it.
        on_engine: rows that are on the engine now.
    """

    claim: Claim
    spec: ChunkSpec
    writer: int
    place: TraceContext | None = None
    dead: EngineDeadError | None = None
    on_engine: int = 0


class RowRunner:
    """Runs rows.

    Args:
        engine: a started engine.
        retry: how long a row waits for its next try.
        max_result_bytes: a larger response fails its row.
        tracer: the worker's.
    """

    def __init__(self, engine: Engine, retry: RetryPolicy, max_result_bytes: int, tracer: Tracer) -> None:
        self._engine, self._retry = engine, retry
        self._max_result_bytes, self._tracer = max_result_bytes, tracer

    async def run(self, run: Attempt, row: Row, ident: str) -> Final | None:
        """Run a row to its end.

        Args:
            run: the attempt at its chunk; what becomes of the engine is noted there.
            row: what to run.
            ident: the row's id.

        Returns:
            Its end; None where the engine died: the row is for another attempt.
        """
        for attempt in range(1, ROW_ATTEMPTS + 1):
            priority = run.claim.lane.engine_priority
            span = begin_row(self._tracer, run.place, run.claim, ident, self._engine.name)
            request = EngineRequest(
                f"{ident}-{run.writer}",
                run.spec.endpoint,
                row.body,
                stream=False,
                priority=priority,
                attempt=attempt,
                trace={} if span.context is None else span.context.headers(),
            )
            run.on_engine += 1
            try:
                final = _readable(await self._engine.run(request, _drop))
                note_final(span, final)
            except EngineDeadError as error:
                if await self._engine_is_dead(run, error):
                    return self._verdict(run, error)
                final = Final(*failure_body(FailureCode.ENGINE_UNAVAILABLE, str(error)[:500]), None)
            except Exception as error:  # an engine's bug must not take the chunk with it
                log.exception("row_crashed", batch=run.spec.batch)
                message = f"{type(error).__name__}: {error}"
                final = Final(*failure_body(FailureCode.INTERNAL, message[:500]), None)
            finally:
                run.on_engine -= 1
                span.end()
            if len(final.body) > self._max_result_bytes:
                message = f"the response has {len(final.body)} bytes, more than max_result_bytes"
                return Final(*failure_body(FailureCode.RESULT_TOO_LARGE, message), None)
            retryable = final.status >= 400 and FAILURES[code_for_status(final.status)].retryable
            if not retryable or attempt == ROW_ATTEMPTS:
                return final
            await asyncio.sleep(self._retry.delay_s(attempt, random.random()))
        raise AssertionError("the loop returns")

    async def _engine_is_dead(self, run: Attempt, error: EngineDeadError) -> bool:
        try:
            await self._engine.check()
        except EngineDeadError:
            run.dead = run.dead or error
            return True
        return False

    def _verdict(self, run: Attempt, error: EngineDeadError) -> Final | None:
        """Say what a row is that was on the engine when that died: the cause, if it was alone and not the first."""
        if run.claim.kills and run.on_engine == 1 and error.reached:
            message = "the engine died while it ran this request alone, after it had died under its chunk"
            return Final(*failure_body(FailureCode.POISONED, message), None)
        return None


def _drop(_: object) -> None:
    """Take the chunks of a stream: rows are never streamed."""


def _readable(final: Final) -> Final:
    """Return an end whose body fits into a line of JSON."""
    status, body = json_or_failure(final.status, final.body)
    return final if body is final.body else Final(status, body, None)
