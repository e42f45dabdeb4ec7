"""Running a batch's chunk: its rows go onto the engine as the lane controller lets them, and are committed in groups.

A chunk is an ordinary job, claimed and fenced like any other. What earlier attempts of it committed is not run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from broker.attempts import Claim
from broker.batch_chunks import ChunkSpec, ChunkStore, Go
from broker.db.errors import StoreUnavailableError
from jobs.batch_rows import Row, read_row, response_line, row_id
from jobs.batches import new_writer
from jobs.lanes import Lane
from monitoring import failpoints
from monitoring.metrics import WorkerMetrics
from monitoring.trace_context import TraceContext
from storage import Storage, StorageError
from storage.base import read_lines
from storage.parts import Recovered, recover, usage_of
from workers.admission.gate import RowGate
from workers.attempts.accounts import count_rows
from workers.batches.commits import ChunkGoneError, Committer, FinishedRow
from workers.batches.row import Attempt, RowRunner
from workers.engines.base import Final

log = structlog.get_logger(__name__)

UNCOMMITTED = 512
"""Rows that may be finished and not committed, of one chunk; beyond them it waits for storage."""

_FLUSH_S = 5.0
_RETRY_S = 1.0
_DONE = b"{}"


@dataclass(slots=True)
class _Run:
    """One chunk on this worker: ``rows``, what their runs share; ``left``, how many are not on the engine yet."""

    rows: Attempt
    committer: Committer
    left: int
    tasks: set[asyncio.Task[bool]] = field(default_factory=set)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def spec(self) -> ChunkSpec:
        """The chunk."""
        return self.rows.spec

    @property
    def claim(self) -> Claim:
        """Its attempt."""
        return self.rows.claim


class BulkRuns:
    """The chunks that this worker runs.

    Args:
        rows: runs each row.
        storage: opened when first used.
        chunks: the chunks' transitions.
        metrics: the worker's.
        gate: lets rows onto the engine.
        careful: rows that run one at a time after the engine died under a chunk.
    """

    def __init__(
        self,
        rows: RowRunner,
        storage: Callable[[], Storage],
        chunks: ChunkStore,
        metrics: WorkerMetrics,
        gate: RowGate,
        careful: int,
    ) -> None:
        self._rows, self._storage, self._chunks = rows, storage, chunks
        self._metrics, self._gate, self._careful = metrics, gate, careful
        self._runs: dict[str, _Run] = {}
        self._starting: dict[str, tuple[Lane, int]] = {}
        self._stuck: set[str] = set()

    def chunks(self) -> tuple[int, int]:
        """Return how many chunks run here: those of the lane bulk, and others. Called from the consumer's thread, too."""
        lanes = [lane for lane, _ in list(self._starting.values())]
        lanes += [run.claim.lane for run in list(self._runs.values())]
        bulk = sum(lane is Lane.BULK for lane in lanes)
        return bulk, len(lanes) - bulk

    def pending(self) -> int:
        """Return how many rows of the chunks here are not on the engine yet. From any thread, as :meth:`chunks`.

        Chunks that storage keeps from going on do not count: the engine is free for others meanwhile.
        """
        left = [(job, rows) for job, (_, rows) in list(self._starting.items())]
        left += [(job, run.left) for job, run in list(self._runs.items())]
        return sum(rows for job, rows in left if job not in self._stuck)

    def abort(self, job_id: str) -> None:
        """End a chunk early: its running rows are stopped, what is finished is committed."""
        if run := self._runs.get(job_id):
            run.stopped.set()
            for task in run.tasks:
                task.cancel()

    async def run(self, claim: Claim, place: TraceContext | None = None) -> Final:
        """Run a chunk until every row is committed, its batch is paused, or it is no longer this attempt's.

        Args:
            claim: the chunk's attempt.
            place: its place in a trace, to which the rows' own traces link.

        Raises:
            EngineDeadError: the engine died under it. What was finished is committed.
        """
        spec = msgspec.json.decode(claim.body, type=ChunkSpec)
        self._starting[claim.id] = (claim.lane, spec.rows)
        try:
            go, left, writer = await self._begin(spec, claim)
        finally:
            del self._starting[claim.id]
            self._stuck.discard(claim.id)
        if go in {Go.DONE, Go.GONE}:
            return Final(200, _DONE, None)
        if go is Go.PAUSED:
            await self._end(spec, claim, done=False)
            return Final(200, _DONE, None)
        committer = Committer(
            self._storage(),
            self._chunks,
            spec,
            claim,
            writer,
            lambda rows: count_rows(self._metrics, claim, rows),
        )
        run = _Run(Attempt(claim, spec, writer, place), committer, spec.rows - len(left.ids))
        self._runs[claim.id] = run
        try:
            await self._work(run, left.ids)
        except ChunkGoneError:
            log.info("chunk_gone", batch=spec.batch, chunk=spec.chunk)
            return Final(200, _DONE, None)
        finally:
            del self._runs[claim.id]
            self._stuck.discard(claim.id)
        return Final(200, _DONE, None)

    async def _begin(self, spec: ChunkSpec, claim: Claim) -> tuple[Go, Recovered, int]:
        """Find out what is left of a chunk, and take it, as the writer of the number that is returned."""
        nothing = Recovered("", frozenset(), usage_of(b""))
        while True:
            try:
                seen = await self._chunks.ledger(spec)
                if seen is None:
                    return Go.DONE, nothing, 0
                left = await recover(self._storage(), spec.batch, spec.chunk, seen)
                writer = new_writer(left.ledger, spec.writer(claim.attempt))
                ledger = f"{left.ledger} {writer}:0".strip()
                go = await self._chunks.take(spec, claim, ledger, seen, left.new)
                if go is not None:
                    return go, left, writer
            except StorageError as error:
                await self._wait_for_storage(spec, claim, error)
            except StoreUnavailableError as error:
                log.warning("chunk_waits_for_redis", batch=spec.batch, error=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _work(self, run: _Run, done: frozenset[str]) -> None:
        loop = asyncio.get_running_loop()
        feeding = loop.create_task(self._feed(run, done))
        committing = loop.create_task(run.committer.run())
        try:
            await asyncio.wait({feeding, committing}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done() and not feeding.cancelled() and feeding.exception() is None:
                run.committer.close()
                await committing
            elif committing.done():
                await committing  # raises: the chunk is gone
            else:
                await feeding
        except BaseException as error:
            await _stop([feeding, *run.tasks])
            await _stop([committing])
            if not isinstance(error, ChunkGoneError):
                await self._save(run)
            raise
        if run.rows.dead is not None:
            raise run.rows.dead
        failpoints.hit("bulk.before_end")
        complete = not run.stopped.is_set() and not run.committer.paused
        await self._end(run.spec, run.claim, done=complete and run.left == 0)

    async def _save(self, run: _Run) -> None:
        """Commit what is finished, if that is quickly done: the chunk's next attempt need not run it again."""
        saving = asyncio.create_task(run.committer.flush())
        with suppress(TimeoutError, ChunkGoneError):
            async with asyncio.timeout(_FLUSH_S):
                await asyncio.shield(saving)
        await _stop([saving])

    async def _feed(self, run: _Run, done: frozenset[str]) -> None:
        """Let the missing rows onto the engine one after the other, and wait for their ends."""
        spec, number = run.spec, 0
        careful = self._careful if run.claim.kills else 0
        end = spec.offset + spec.length
        line_offset = spec.offset
        async for offset, lines in self._lines(run, end):
            line_offset = offset
            for line in lines:
                at, line_offset = line_offset, line_offset + len(line) + 1
                if not line or line.isspace():
                    continue
                row = read_row(line)
                if row.custom_id in done:
                    continue
                if run.committer.uncommitted >= UNCOMMITTED:
                    self._stuck.add(run.claim.id)
                    await run.committer.below(UNCOMMITTED)
                    self._stuck.discard(run.claim.id)
                await self._gate.enter(run.claim.lane.engine_priority)
                run.left -= 1
                if run.stopped.is_set() or run.committer.paused or run.rows.dead is not None:
                    run.left += 1
                    self._gate.leave()
                    break
                number += 1
                task = asyncio.create_task(self._row(run, row, at))
                run.tasks.add(task)
                task.add_done_callback(lambda one: self._left(run, one))
                if number <= careful:
                    await asyncio.wait({task})
            else:
                continue
            break
        while run.tasks:
            await asyncio.wait(set(run.tasks))

    async def _lines(self, run: _Run, end: int) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Read the chunk's lines; storage that fails is waited for, and read on from where it failed."""
        at = run.spec.offset
        while at < end:
            try:
                async for offset, lines in read_lines(self._storage(), run.spec.input_key, at, end):
                    self._stuck.discard(run.claim.id)
                    yield offset, lines
                    at = offset + sum(len(line) + 1 for line in lines)
            except StorageError as error:
                await self._wait_for_storage(run.spec, run.claim, error)

    async def _wait_for_storage(self, spec: ChunkSpec, claim: Claim, error: StorageError) -> None:
        self._stuck.add(claim.id)  # until it goes on
        log.warning("chunk_waits_for_storage", batch=spec.batch, error=str(error))
        with suppress(StoreUnavailableError):
            await self._chunks.hold(spec.batch, error.reason)
        await asyncio.sleep(_RETRY_S)

    def _left(self, run: _Run, task: asyncio.Task[bool]) -> None:
        """A row's task is over, whatever its end: its place is free."""
        run.tasks.discard(task)
        self._gate.leave()
        if task.cancelled() or task.exception() is not None or not task.result():
            run.left += 1

    async def _row(self, run: _Run, row: Row, at: int) -> bool:
        """Run one row, and hand its line to the committer. Returns whether it came to an end."""
        ident = row_id(run.spec.batch, at)
        final = await self._rows.run(run.rows, row, ident)
        if final is None:
            return False
        line = response_line(ident, row.custom_id, final.status, final.body, ident)
        kind = "ok" if final.status < 400 else "err"
        run.committer.put(FinishedRow(line, kind, usage_of(final.body)))
        return True

    async def _end(self, spec: ChunkSpec, claim: Claim, *, done: bool) -> None:
        while True:
            try:
                await self._chunks.end(spec, claim, done=done)
            except StoreUnavailableError as error:
                log.warning("chunk_end_delayed", batch=spec.batch, error=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return


async def _stop(tasks: list[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
