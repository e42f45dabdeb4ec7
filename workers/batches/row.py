"""Running one row of a batch: on the engine, again if a retry may help, to one response or one failure."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import structlog
from msgspec.structs import replace

from broker.batch_chunks import ChunkSpec
from broker.claims import Claim
from broker.db.errors import StoreUnavailableError
from jobs.answers import failure_body
from jobs.batch_rows import Row
from jobs.end_users import without_end_users
from jobs.failures import FAILURES, FailureCode, code_for_status
from jobs.retry import RetryPolicy
from monitoring.trace_context import TraceContext
from monitoring.tracing import Kind, Span, Tracer
from storage import StorageError
from workers.engines.base import (
    AdapterBrokenError,
    Engine,
    EngineDeadError,
    EngineRequest,
    Final,
    death_counts,
    record_final,
)
from workers.inputs import Inputs, NoSuchFileError

log = structlog.get_logger(__name__)

ROW_ATTEMPTS = 3
"""Tries of a row whose engine fails in a way that another try may overcome."""

_OF_REQUEST = frozenset({400, 404, 413, 422})
"""Statuses by which an engine refuses the request itself."""


@dataclass(slots=True)
class ChunkAttempt:
    """An attempt at a chunk, as its rows share it.

    Attributes:
        writer: the number under which this attempt writes.
        reaches_engine: called when the engine gets a row.
        place: its place in a trace, to which the rows' own traces link.
        engine_error: the first sign that the engine died under it.
        on_engine: rows that are on the engine now.
    """

    claim: Claim
    spec: ChunkSpec
    writer: int
    reaches_engine: Callable[[], None]
    place: TraceContext | None = None
    engine_error: EngineDeadError | None = None
    on_engine: int = 0

    def engine_id(self, ident: str) -> str:
        """Return the id under which the engine runs a row in this attempt. ``ident``: the row's own."""
        return f"{ident}-{self.writer}"


@dataclass(frozen=True, slots=True)
class RowEnd:
    """How a row ended.

    Attributes:
        of_request: the request alone is the cause, so a run of an identical one would end likewise. False: another run may
            end otherwise, for example because the engine could not be reached.
        ran_s: seconds that its tries were on the engine.
    """

    final: Final
    of_request: bool
    ran_s: float = 0.0


class RowRunner:
    """Runs rows.

    Args:
        engine: a started engine.
        inputs: reads the files that rows name.
        adapter_for: keeps a model's LoRA adapter loaded while a row runs.
        retry: how long a row waits for its next try.
        max_result_bytes: a larger response fails its row.
        share_prefixes: requests of all tenants find each other's prefixes in the engine's cache.
    """

    def __init__(
        self,
        engine: Engine,
        inputs: Inputs,
        retry: RetryPolicy,
        max_result_bytes: int,
        tracer: Tracer,
        *,
        adapter_for: Callable[[str], AbstractAsyncContextManager[Path | None]],
        share_prefixes: bool,
    ) -> None:
        self._adapter_for = adapter_for
        self._engine, self._retry, self._share_prefixes = engine, retry, share_prefixes
        self._inputs = inputs
        self._max_result_bytes, self._tracer = max_result_bytes, tracer

    async def run(self, chunk: ChunkAttempt, row: Row, ident: str) -> RowEnd | None:
        """Run a row to its end.

        Args:
            chunk: the attempt at its chunk; the engine's death is noted there.
            ident: the row's id.

        Returns:
            Its end; None: the engine died, and the row is for another attempt.
        """
        ran_s = 0.0
        body = without_end_users(chunk.spec.endpoint, row.body)  # no digests: the key is the api's
        for number in range(1, ROW_ATTEMPTS + 1):
            began_s = time.monotonic()
            span = self._begin_span(chunk, ident)
            on_engine = 0
            try:
                request = EngineRequest(
                    chunk.engine_id(ident),
                    chunk.spec.endpoint,
                    await self._inputs.with_images(body, chunk.claim.tenant),
                    stream=False,
                    priority=chunk.claim.lane.engine_priority,
                    attempt=number,
                    trace={} if span.context is None else span.context.headers(),
                    tenant=None if self._share_prefixes else chunk.claim.tenant,
                )
                async with self._adapter_for(chunk.claim.model) as adapter:
                    on_engine = 1  # while it waited for its adapter, no death was its fault
                    chunk.on_engine += on_engine
                    chunk.reaches_engine()
                    final = await self._engine.run(replace(request, adapter=adapter), _ignore)
                record_final(span, final)
            except EngineDeadError as error:
                if await self._engine_is_dead(chunk, error):
                    return self._verdict(chunk, error)
                final = Final(*failure_body(FailureCode.ENGINE_UNAVAILABLE, str(error)[:500]), None)
            except NoSuchFileError as error:
                final = Final(*failure_body(FailureCode.FILE_NOT_FOUND, str(error)), None)
            except AdapterBrokenError as error:
                final = Final(*failure_body(FailureCode.ADAPTER_BROKEN, str(error)[:500]), None)
            except (StorageError, StoreUnavailableError) as error:
                final = Final(*failure_body(FailureCode.STORAGE_UNAVAILABLE, str(error)[:500]), None)
            except Exception as error:  # an engine's bug must not take the chunk with it
                log.exception("row_crashed", batch=chunk.spec.batch)
                message = f"{type(error).__name__}: {error}"
                final = Final(*failure_body(FailureCode.INTERNAL, message[:500]), None)
            finally:
                chunk.on_engine -= on_engine
                ran_s += time.monotonic() - began_s
                span.end()
            if len(final.body) > self._max_result_bytes:
                message = f"the response has {len(final.body)} bytes, more than max_result_bytes"
                return RowEnd(Final(*failure_body(FailureCode.RESULT_TOO_LARGE, message), None), True, ran_s)
            retryable = final.status >= 400 and FAILURES[code_for_status(final.status)].retryable
            if not retryable or number == ROW_ATTEMPTS:
                return RowEnd(final, final.status < 400 or final.status in _OF_REQUEST, ran_s)
            await asyncio.sleep(self._retry.delay_s(number, random.random()))
        raise AssertionError("the loop returns")

    def _begin_span(self, chunk: ChunkAttempt, ident: str) -> Span:
        """Begin the row's span: a trace of its own, linked to the chunk. The tracer records a few of them a second."""
        span = self._tracer.begin("row", Kind.CLIENT, links=[chunk.place])
        if span.recording:
            span.set(
                {
                    "gen_ai.provider.name": self._engine.name,
                    "gen_ai.request.model": chunk.claim.model,
                    "penstock.job.id": chunk.claim.id,
                    "penstock.job.attempt": chunk.claim.attempt,
                    "penstock.batch.row": ident,
                }
            )
        return span

    async def _engine_is_dead(self, chunk: ChunkAttempt, error: EngineDeadError) -> bool:
        try:
            await self._engine.check()
        except EngineDeadError:
            chunk.engine_error = chunk.engine_error or error
            return True
        return False

    def _verdict(self, chunk: ChunkAttempt, error: EngineDeadError) -> RowEnd | None:
        """Judge a row that was on the engine when it died: the cause, if it ran alone and the engine had died before."""
        alone = chunk.claim.kills and chunk.on_engine == 1
        if alone and death_counts(self._engine, reached=error.reached):
            message = "the engine died while it ran this request alone, after it had died under its chunk"
            return RowEnd(Final(*failure_body(FailureCode.POISONED, message), None), of_request=True)
        return None


def _ignore(_: object) -> None:
    """Take the chunks of a stream: rows are never streamed."""
