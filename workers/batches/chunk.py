"""The life of a chunk on a worker: take it, run its remaining rows, end it.

A chunk is an ordinary job, claimed and fenced like any other. Rows that an earlier attempt has committed do not run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import structlog

from broker.batch_chunks import ChunkSpec, ChunkStore, Go
from broker.claims import Claim
from broker.db.errors import StoreError, StoreUnavailableError
from jobs.batches import new_writer
from jobs.model import Usage
from monitoring import failpoints
from monitoring.metrics import WorkerMetrics
from monitoring.trace_context import TraceContext
from storage import Storage, StorageError
from storage.parts import Recovered, recover, usage_of
from workers.admission.gate import ChunkSlots, Gate
from workers.batches.answers import Answers
from workers.batches.commits import ChunkGoneError, Committer, FinishedRow
from workers.batches.feed import Feeder
from workers.batches.plan import Planner, Run
from workers.batches.row import ChunkAttempt, RowRunner
from workers.batches.windows import Windows
from workers.engines.base import Final

log = structlog.get_logger(__name__)

_SAVE_S = 5.0
_SAVE_AT_THE_END_S = 0.7
"""The same where the attempt is given up, since the worker may end: another attempt runs those rows again."""

_RETRY_S = 1.0
_DONE = Final(200, b"{}", Usage(0, 0, 0))
_NOTHING = Recovered("", frozenset(), usage_of(b""))


class ChunkRunner:
    """Runs the chunks of this worker.

    Args:
        storage: opened when first used.
        gate: admits rows to the engine.
        one_by_one: rows that run alone at first, after the engine died under a chunk.
        planner: orders the rows, and finds identical ones.
        device_share: devices of this worker for each of its slots.
        weights: says which weights the engine has; equal values, the same ones. They change while no chunk is here.
    """

    def __init__(
        self,
        rows: RowRunner,
        storage: Callable[[], Storage],
        chunks: ChunkStore,
        metrics: WorkerMetrics,
        gate: Gate,
        one_by_one: int,
        planner: Planner,
        device_share: float,
        weights: Callable[[], object],
    ) -> None:
        self._rows, self._storage, self._chunks = rows, storage, chunks
        self._metrics, self._gate, self._one_by_one = metrics, gate, one_by_one
        self._planner = planner
        self._device_share = device_share
        self._feeders: dict[str, Feeder] = {}
        self._answers, self._weights, self._answered_by = Answers(), weights, weights()

    def abort(self, job_id: str) -> None:
        """End a chunk early: its running rows are stopped, its finished rows are committed."""
        if feeder := self._feeders.get(job_id):
            feeder.stop()

    async def run(
        self, claim: Claim, place: TraceContext | None, reaches_engine: Callable[[], None]
    ) -> Final:
        """Run a chunk until every row is committed, its batch is paused, or it is no longer this attempt's.

        Args:
            place: its place in a trace, to which the rows' own traces link.
            reaches_engine: called when the engine gets a row of it.

        Returns:
            With the usage of the rows that this attempt ran and committed.

        Raises:
            EngineDeadError: the engine died under it. Finished rows are committed.
        """
        spec = msgspec.json.decode(claim.body, type=ChunkSpec)
        with self._gate.open_chunk(claim, spec.rows) as slots:
            go, left, writer = await self._take(spec, claim, slots)
            if go is Go.PAUSED:
                await self._end(spec, claim, done=len(left.ids) >= spec.rows)
            if go in {Go.DONE, Go.GONE, Go.PAUSED}:
                return _DONE
            slots.stalled = False
            slots.skip(len(left.ids))
            used = _Used()

            def count(rows: list[FinishedRow]) -> None:
                used.add(rows)
                self._count(claim, rows)

            chunk = ChunkAttempt(claim, spec, writer, reaches_engine, place)
            committer = Committer(
                self._storage(), self._chunks, spec, claim, writer, count, self._device_share
            )
            storage_fails = partial(self._wait_for_storage, spec, slots)
            windows = Windows(self._storage(), spec, self._planner, slots, storage_fails)
            feeder = self._feeders[claim.id] = Feeder(
                chunk,
                self._rows,
                self._known_answers() if self._planner.identical_once else None,
                committer,
                slots,
                self._one_by_one if claim.kills else 0,
            )
            try:
                await self._work(chunk, feeder, committer, windows.runs(left.ids))
            except ChunkGoneError:
                log.info("chunk_gone", batch=spec.batch, chunk=spec.chunk)
            finally:
                del self._feeders[claim.id]
        return Final(200, b"{}", used.usage)

    async def _take(self, spec: ChunkSpec, claim: Claim, slots: ChunkSlots) -> tuple[Go, Recovered, int]:
        """Find the rows left of a chunk, and take it. Returns the verdict, those rows, and the number to write under."""
        while True:
            try:
                seen = await self._chunks.ledger(spec)
                if seen is None:
                    return Go.DONE, _NOTHING, 0
                left = await recover(self._storage(), spec.batch, spec.chunk, seen)
                writer = new_writer(left.ledger, spec.writer(claim.attempt))
                ledger = f"{left.ledger} {writer}:0".strip()
                go = await self._chunks.take(spec, claim, ledger, seen, left.new)
                if go is not None:
                    return go, left, writer
            except StorageError as error:
                await self._wait_for_storage(spec, slots, error)
            except StoreUnavailableError as error:
                log.warning("chunk_waits_for_redis", batch=spec.batch, error=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _work(
        self, chunk: ChunkAttempt, feeder: Feeder, committer: Committer, runs: AsyncIterator[Run]
    ) -> None:
        loop = asyncio.get_running_loop()
        feeding = loop.create_task(feeder.run(runs))
        committing = loop.create_task(committer.run())
        try:
            await asyncio.wait({feeding, committing}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and not feeding.cancelled() and feeding.exception() is None:
                committer.close()
                await committing
            elif committing.done():
                await committing  # raises: the chunk is gone
            else:
                await feeding
        except BaseException as error:
            await _cancel([feeding, *feeder.tasks])
            await _cancel([committing])
            if not isinstance(error, ChunkGoneError):
                await _save(committer, _SAVE_S if feeder.stopped else _SAVE_AT_THE_END_S)
            raise
        if chunk.engine_error is not None:
            raise chunk.engine_error
        failpoints.hit("bulk.before_end")
        await self._end(chunk.spec, chunk.claim, done=feeder.complete)

    def _known_answers(self) -> Answers:
        """Return the answers of rows that the present weights have run."""
        if (weights := self._weights()) != self._answered_by:
            self._answers.clear()
            self._answered_by = weights
        return self._answers

    def _count(self, claim: Claim, rows: list[FinishedRow]) -> None:
        """Count rows that were committed, and the tokens of those that ran, which are the tenant's."""
        failed = sum(row.kind == "err" for row in rows)
        self._metrics.batch_rows.labels("completed").inc(len(rows) - failed)
        self._metrics.batch_rows.labels("failed").inc(failed)
        self._metrics.batch_rows_shared.inc(sum(row.shared for row in rows))
        of_them = _Used()
        of_them.add(rows)
        self._metrics.count_tokens(claim.lane, claim.tenant, of_them.prompt, of_them.completion)

    async def _wait_for_storage(self, spec: ChunkSpec, slots: ChunkSlots, error: StorageError) -> None:
        slots.stalled = True  # until something can be read
        log.warning("chunk_waits_for_storage", batch=spec.batch, error=str(error))
        with suppress(StoreError):
            await self._chunks.hold(spec.batch, error.reason)
        await asyncio.sleep(_RETRY_S)

    async def _end(self, spec: ChunkSpec, claim: Claim, *, done: bool) -> None:
        while True:
            try:
                await self._chunks.end(spec, claim, done=done)
            except StoreUnavailableError as error:
                log.warning("chunk_end_delayed", batch=spec.batch, error=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return


@dataclass(slots=True)
class _Used:
    """The tokens of rows that ran; those of rows that share a run do not count again."""

    prompt: int = 0
    completion: int = 0

    def add(self, rows: list[FinishedRow]) -> None:
        self.prompt += sum(row.usage.input_tokens for row in rows if not row.shared)
        self.completion += sum(row.usage.output_tokens for row in rows if not row.shared)

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt, self.completion, self.prompt + self.completion)


async def _save(committer: Committer, within_s: float) -> None:
    """Commit finished rows if that is quickly done, so that the chunk's next attempt need not run them again."""
    saving = asyncio.create_task(committer.flush_all())
    with suppress(TimeoutError, ChunkGoneError):
        async with asyncio.timeout(within_s):
            await asyncio.shield(saving)
    await _cancel([saving])


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
