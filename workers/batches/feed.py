"""Feeding one chunk: its lines are read from storage, and its missing rows go onto the engine as the gate admits them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from jobs.answers import failure_body
from jobs.batch_lines import response_line, row_id
from jobs.batch_rows import Row, read_row
from jobs.failures import FailureCode
from monitoring import failpoints
from storage import Storage, StorageError
from storage.base import read_lines
from storage.parts import usage_of
from workers.admission.gate import ChunkSlots
from workers.batches.commits import Committer, FinishedRow
from workers.batches.row import ChunkAttempt, RowRunner
from workers.engines.base import Final, being_cancelled

log = structlog.get_logger(__name__)

UNCOMMITTED = 512
"""Rows of one chunk that may be finished and not committed; beyond them it waits for storage."""


class Feeder:
    """Runs the rows of one chunk.

    Args:
        slots: the chunk's places on the engine.
        on_storage_error: awaited when storage fails; reading is tried again after it.
        one_by_one: so many rows at first, each of which runs alone.
    """

    def __init__(
        self,
        chunk: ChunkAttempt,
        rows: RowRunner,
        committer: Committer,
        slots: ChunkSlots,
        storage: Storage,
        on_storage_error: Callable[[StorageError], Awaitable[None]],
        one_by_one: int,
    ) -> None:
        self._chunk, self._rows, self._committer, self._slots = chunk, rows, committer, slots
        self._storage, self._on_storage_error, self._one_by_one = storage, on_storage_error, one_by_one
        self.tasks: set[asyncio.Task[bool]] = set()
        self.stopped = False
        """Whether the chunk was ended early."""
        self._lost: BaseException | None = None

    @property
    def complete(self) -> bool:
        """Whether every row of the chunk is finished."""
        return not self.stopped and not self._committer.paused and self._slots.left == 0

    def stop(self) -> None:
        """Cancel the running rows, and start no other."""
        self.stopped = True
        for task in self.tasks:
            task.cancel()

    async def run(self, done: frozenset[str]) -> None:
        """Run the rows that are not in ``done``, and return when the last of them has ended.

        Raises:
            BaseException: a row came to no end. The chunk's job must fail, or the chunk is submitted again for ever.
        """
        number = 0
        async for row, at in self._missing(done):
            if self._committer.uncommitted >= UNCOMMITTED:
                self._slots.stalled = True
                await self._committer.below(UNCOMMITTED)
                self._slots.stalled = False
            await self._slots.acquire()
            if self.stopped or self._committer.paused or self._chunk.engine_error is not None:
                self._slots.release(finished=False)
                break
            number += 1
            task = asyncio.create_task(self._run_row(row, at))
            self.tasks.add(task)
            task.add_done_callback(self._row_ended)
            if number <= self._one_by_one:
                await asyncio.wait({task})
        while self.tasks:
            await asyncio.wait(set(self.tasks))
        if self._lost is not None:
            raise self._lost

    async def _missing(self, done: frozenset[str]) -> AsyncIterator[tuple[Row, int]]:
        """Yield each row to run with its offset in the input."""
        async for offset, lines in self._lines():
            at = offset
            for line in lines:
                if line and not line.isspace() and (row := read_row(line)).custom_id not in done:
                    yield row, at
                at += len(line) + 1

    async def _lines(self) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Read the chunk's lines. After a failure of storage, reading continues where it failed."""
        spec = self._chunk.spec
        at, end = spec.offset, spec.offset + spec.length
        while at < end:
            try:
                async for offset, lines in read_lines(self._storage, spec.input_key, at, end):
                    self._slots.stalled = False
                    yield offset, lines
                    at = offset + sum(len(line) + 1 for line in lines)
            except StorageError as error:
                await self._on_storage_error(error)

    async def _run_row(self, row: Row, at: int) -> bool:
        """Run one row, and hand its line to the committer. Returns whether it came to an end."""
        ident = row_id(self._chunk.spec.batch, at)
        try:
            final = await self._rows.run(self._chunk, row, ident)
            if final is None:
                return False
            failpoints.hit("bulk.after_row")
            finished = _finished(ident, row, final)
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            finished = self._failed_here(ident, row, error)
        except Exception as error:  # noqa: BLE001 - run again, it would fail again
            finished = self._failed_here(ident, row, error)
        self._committer.append(finished)
        return True

    def _failed_here(self, ident: str, row: Row, error: BaseException) -> FinishedRow:
        log.error("row_failed_here", batch=self._chunk.spec.batch, row=ident, exc_info=error)
        message = f"Penstock failed while it ran this request: {type(error).__name__}"
        return _finished(ident, row, Final(*failure_body(FailureCode.INTERNAL, message), None))

    def _row_ended(self, task: asyncio.Task[bool]) -> None:
        """Free the row's place, whatever its end."""
        self.tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("row_lost", batch=self._chunk.spec.batch, chunk=self._chunk.spec.chunk, exc_info=error)
            self._lost = error
        ended = not task.cancelled() and error is None and task.result()
        self._slots.release(finished=bool(ended))


def _finished(ident: str, row: Row, final: Final) -> FinishedRow:
    line = response_line(ident, row.custom_id, final.status, final.body, ident)
    return FinishedRow(line, "ok" if final.status < 400 else "err", usage_of(final.body))
