"""Feeding one chunk: its missing rows go onto the engine as the gate admits them, or get the answer of an identical row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import structlog

from jobs.answers import failure_body
from jobs.batch_lines import Response, row_id
from jobs.failures import FailureCode
from monitoring import failpoints
from storage.parts import usage_of
from workers.admission.gate import ChunkSlots
from workers.batches.answers import Answer, Answers, Waiter, key_of
from workers.batches.commits import Committer, FinishedRow
from workers.batches.plan import Run
from workers.batches.row import ChunkAttempt, RowEnd, RowRunner
from workers.engines.base import Final, being_cancelled

log = structlog.get_logger(__name__)

UNCOMMITTED = 512
"""Rows of one chunk that may be finished and not committed; beyond them it waits for storage."""


class Feeder:
    """Runs the rows of one chunk.

    Args:
        answers: of rows that have run or run on this worker; None: each window's rows run by themselves.
        slots: the chunk's places on the engine.
        one_by_one: so many runs at first, each of which has the engine alone.
    """

    def __init__(
        self,
        chunk: ChunkAttempt,
        rows: RowRunner,
        answers: Answers | None,
        committer: Committer,
        slots: ChunkSlots,
        one_by_one: int,
    ) -> None:
        self._chunk, self._rows, self._committer, self._slots = chunk, rows, committer, slots
        self._answers, self._one_by_one = answers, one_by_one
        self._again: list[Run] = []
        self.tasks: set[asyncio.Future[Any]] = set()
        """Runs, and rows that wait for the answer of another run."""
        self._adapted = False
        self._ended = asyncio.Event()
        self.stopped = False
        """Whether the chunk was ended early."""
        self._lost: BaseException | None = None

    @property
    def complete(self) -> bool:
        """Whether every row of the chunk is finished."""
        return not self.stopped and self._slots.left == 0

    def stop(self) -> None:
        """Cancel the rows that run or wait for one that runs, and start no other."""
        self.stopped = True
        for task in self.tasks:
            task.cancel()

    async def run(self, runs: AsyncIterator[Run]) -> None:
        """Run them, and return when the last of them has ended.

        Raises:
            BaseException: a row came to no end. The chunk's job must fail, or the chunk is submitted again for ever.
        """
        number = 0
        async for run in runs:
            if not await self._start(run):
                break
            number += 1
            if number <= self._one_by_one and self.tasks:
                await asyncio.wait(set(self.tasks))
        while self.tasks or self._again:
            again, self._again = self._again, []
            for run in again:
                if not await self._start(run, by_itself=True):
                    break
            while self.tasks and not self._again:
                self._ended.clear()
                await self._ended.wait()
        if self._lost is not None:
            raise self._lost

    async def _start(self, run: Run, *, by_itself: bool = False) -> bool:
        """Start a run as soon as there is a place, unless its answer is known, or about to be.

        Args:
            by_itself: it waits for no identical row that runs.

        Returns:
            False: the chunk ends early, so nothing starts any more.
        """
        if self._committer.uncommitted >= UNCOMMITTED:
            self._slots.stalled = True
            await self._committer.below(UNCOMMITTED)
            self._slots.stalled = False
        if self._ends_early():
            return False
        key = (
            None
            if self._answers is None
            else key_of(self._chunk.spec.batch, self._chunk.spec.endpoint, run.row.body)
        )
        if self._is_answered(run, key, by_itself=by_itself):
            self._slots.skip(run.rows)
            await asyncio.sleep(0)  # others' turn
            return True
        await self._slots.acquire(run.rows)
        if self._ends_early():
            self._slots.release(run.rows)
            return False
        if self._is_answered(run, key, by_itself=by_itself):  # one began meanwhile
            self._slots.release()
            return True
        leads = self._answers is not None and key is not None and self._answers.begin(key)
        task = asyncio.create_task(self._run(run, key))
        self.tasks.add(task)
        task.add_done_callback(partial(self._run_ended, run.rows, key if leads else None))
        return True

    def _ends_early(self) -> bool:
        return self.stopped or self._committer.paused or self._chunk.engine_error is not None

    def _is_answered(self, run: Run, key: bytes | None, *, by_itself: bool) -> bool:
        """Give a run's rows the answer of an earlier row with this key, now or when that has ended. False: there is none."""
        if self._answers is None or key is None:
            return False
        if (answer := self._answers.get(key)) is not None:
            self._committer.append(self._output(run, answer, None))
            return True
        waiter = None if by_itself or self._adapted else self._answers.wait(key, len(run.row.body))
        if waiter is None:
            return False
        self.tasks.add(waiter)
        waiter.add_done_callback(partial(self._twin_ended, run))
        return True

    def _twin_ended(self, run: Run, waiter: Waiter) -> None:
        """Give a run's rows the answer that they waited for; without one, they run."""
        self.tasks.discard(waiter)
        self._ended.set()
        answer = None if waiter.cancelled() else waiter.result()
        if answer is None:
            self._slots.skip(-run.rows)
            self._again.append(run)
        else:
            self._committer.append(self._output(run, answer, None))

    async def _run(self, run: Run, key: bytes | None) -> tuple[int, Answer | None]:
        """Run a row, and hand the lines of all that its end answers to the committer.

        Returns:
            How many rows have ended, and the answer that others with its key may have.
        """
        ident = self._row_id(run.at)
        try:
            end = await self._rows.run(self._chunk, run.row, ident)
            if end is None:
                return 0, None
            failpoints.hit("bulk.after_row")
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            end = self._failed_here(ident, error)
        except Exception as error:  # noqa: BLE001 - run again, it would fail again
            end = self._failed_here(ident, error)
        if not end.of_request:
            self._again += run.apart()
            run = Run(run.row, run.at)
        answer = self._answer(run, end)
        self._committer.append(self._output(run, answer, end.ran_s))
        self._adapted = self._adapted or end.adapted
        if key is None or answer.kind != "ok" or end.adapted:
            return run.rows, None
        if self._answers is not None:
            self._answers.put(key, answer)
        return run.rows, answer

    def _answer(self, run: Run, end: RowEnd) -> Answer:
        final = end.final
        response = Response(final.status, final.body, self._chunk.engine_id(self._row_id(run.at)))
        kind = "ok" if final.status < 400 else "err"
        return Answer(response, kind, usage_of(final.body), len(final.body))

    def _output(self, run: Run, answer: Answer, ran_s: float | None) -> list[FinishedRow]:
        """Return the lines of a run's rows. ``ran_s``: seconds that the first was on the engine; None: none ran."""
        finished = []
        for custom_id, at in ((run.row.custom_id, run.at), *run.twins):
            ident = self._row_id(at)
            line = answer.response.line(ident, custom_id, self._chunk.engine_id(ident))
            shared = ran_s is None or at != run.at
            finished.append(
                FinishedRow(line, answer.kind, answer.usage, 0.0 if shared else ran_s or 0.0, shared)
            )
        return finished

    def _row_id(self, at: int) -> str:
        return row_id(self._chunk.spec.batch, at)

    def _failed_here(self, ident: str, error: BaseException) -> RowEnd:
        log.error("row_failed_here", batch=self._chunk.spec.batch, row=ident, exc_info=error)
        message = f"Penstock failed while it ran this request: {type(error).__name__}"
        return RowEnd(Final(*failure_body(FailureCode.INTERNAL, message), None), of_request=False)

    def _run_ended(self, rows: int, key: bytes | None, task: asyncio.Task[tuple[int, Answer | None]]) -> None:
        """Free the place of a run of ``rows`` rows, and those that wait for its answer, whatever its end.

        Args:
            key: by which others may wait for it; None: none does.
        """
        self.tasks.discard(task)
        self._ended.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("row_lost", batch=self._chunk.spec.batch, chunk=self._chunk.spec.chunk, exc_info=error)
            self._lost = error
        ended, answer = (0, None) if task.cancelled() or error is not None else task.result()
        if key is not None and self._answers is not None:
            self._answers.end(key, answer)
        self._slots.release(rows - ended)
