"""Drives one batch from its creation to its end, step by step. Any coordinator can continue from the stored state."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable
from contextlib import suppress

import structlog

from broker.batch_steps import encode_errors
from broker.db.errors import StoreError, StoreUnavailableError
from coordinator.context import ChangedError, Context
from coordinator.outputs import settle, write_files
from coordinator.submit import LIVE, Submitter
from coordinator.validate import read_plan, validate, write_plan
from jobs.batch_lines import NeverRan
from jobs.batch_model import Batch
from jobs.batch_rows import RowError, RowErrorCode
from jobs.batches import BatchEvent, BatchStatus, Chunk, next_status
from monitoring import failpoints
from storage import StorageError

log = structlog.get_logger(__name__)

LOOK_S = 5.0
"""Longest time between two turns of a batch that waits. The bell tells what changes it; a ring can be lost."""

RUNNING_S = 1.0
"""The same while its rows run: each turn notes their rate."""

CHANGED_S = 0.2
"""Rest after a step that was refused. If the lease is lost, each turn is refused until the keeper of the lease sees it."""

STORAGE_RETRY_S = 1.0
STORAGE_RETRY_MAX_S = 15.0

INTERNAL = "internal_error"
"""The reason of a hold after an error of Penstock itself."""


class Driver:
    """Drives one batch for as long as this coordinator has its lease."""

    def __init__(self, context: Context, batch_id: str) -> None:
        self._context = context
        self._id = batch_id
        self._plan: list[Chunk] | None = None
        self._submitter: Submitter | None = None
        self._held = False
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Look at the batch now: somebody has changed it."""
        self._wake.set()

    def stop(self) -> None:
        """Have :meth:`run` return once the present step is done."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Return when the batch has ended, or after :meth:`stop`. It waits while storage or Redis fails."""
        pause_s = STORAGE_RETRY_S
        while not self._stopping:
            try:
                batch = await self._context.batches.get(self._id)
                if batch is None or batch.status.terminal:
                    return
                await self._turn(batch)
                if self._held or batch.hold == INTERNAL:
                    await self._context.batches.hold(self._id, None)
                    self._held = False
                pause_s = STORAGE_RETRY_S
            except ChangedError:
                await self._rest(CHANGED_S)  # a caller's change has rung the bell, so that its rest is short
            except StorageError as error:
                log.warning("batch_waits_for_storage", batch=self._id, reason=error.reason, error=str(error))
                await self._hold(error.reason)
                await self._rest(pause_s)
                pause_s = min(STORAGE_RETRY_MAX_S, 2 * pause_s)
            except StoreUnavailableError as error:
                log.warning("batch_waits_for_redis", batch=self._id, error=str(error))
                await self._rest(STORAGE_RETRY_S)

    async def _rest(self, seconds: float) -> None:
        """Sleep until the time is up, or somebody wakes the driver."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _hold(self, reason: str) -> None:
        try:
            await self._context.batches.hold(self._id, reason)
        except StoreError as error:
            log.warning("batch_hold_not_noted", batch=self._id, error=str(error))
        self._held = True

    async def _turn(self, batch: Batch) -> None:
        """Take the next step."""
        failpoints.hit("bulk.before_turn")
        now_ms = await self._context.store.now_ms()
        if batch.status is BatchStatus.CANCELLING:
            await self._close(batch, BatchEvent.FILES_WRITTEN, NeverRan.CANCELLED)
        elif batch.status is BatchStatus.FINALIZING:
            await self._finish(batch, BatchEvent.FILES_WRITTEN)
        elif batch.closing is not None:
            await self._close(batch, BatchEvent.WINDOW_CLOSED, NeverRan.EXPIRED)
        elif now_ms >= batch.expires_ms:
            await self._note(batch, {"closing": "expired"})
        elif batch.status is BatchStatus.VALIDATING:
            await self._validate(batch)
        else:
            await self._advance(batch, now_ms)

    async def _note(self, batch: Batch, fields: dict[str, object] | None = None) -> None:
        """Write fields into a batch's record; without any, see whether this coordinator may go on with it.

        Raises:
            ChangedError: the lease or the status is another.
        """
        if not await self._context.batches.step(batch, self._context.token, None, fields):
            raise ChangedError

    async def _step(self, batch: Batch, event: BatchEvent, fields: dict[str, object] | None = None) -> None:
        to = next_status(batch.status, event)
        if not await self._context.batches.step(batch, self._context.token, to, fields):
            raise ChangedError
        counts = batch.counts
        log.info(
            "batch_moved", batch=batch.id, status=to.value, completed=counts.completed, failed=counts.failed
        )

    async def _fresh(self, batch: Batch) -> Batch:
        """Read a batch again.

        Raises:
            ChangedError: it is gone, or has another status: it was cancelled during this turn, for one.
        """
        fresh = await self._context.batches.get(batch.id)
        if fresh is None or fresh.status is not batch.status:
            raise ChangedError
        return fresh

    async def _validate(self, batch: Batch) -> None:
        await self._note(batch)  # the input may be large
        found = await validate(self._context, batch)
        if isinstance(found, list):
            await self._step(batch, BatchEvent.INVALID, {"errors": encode_errors(found)})
            return
        failpoints.hit("bulk.before_plan")
        await self._note(batch)
        plan = await write_plan(self._context, batch.id, found.chunks)
        failpoints.hit("bulk.after_plan")
        fields = {
            "model": found.model,
            "plan": plan,
            "total": found.rows,
            "chunks": len(found.chunks),
            "unknown_fields": json.dumps(list(found.unknown_fields.items())),
        }
        await self._step(batch, BatchEvent.VALID, fields)

    async def _pieces(self, batch: Batch) -> list[Chunk]:
        if self._plan is None:
            self._plan = await read_plan(self._context, batch) if batch.chunks else []
        return self._plan

    async def _advance(self, batch: Batch, now_ms: int) -> None:
        if self._submitter is None:
            self._submitter = Submitter(self._context, await self._pieces(batch))
        if await self._submitter.turn(batch, now_ms):
            await self._step(await self._fresh(batch), BatchEvent.ALL_ROWS_DONE)
            return
        if await self._settle_lost(batch, self._submitter.lost):
            return
        longest_s = RUNNING_S if self._submitter.running else LOOK_S * random.uniform(0.7, 1.0)
        await self._rest(min(longest_s, max(0.0, batch.expires_ms - now_ms) / 1000))

    async def _settle_lost(self, batch: Batch, lost: Iterable[int]) -> bool:
        """End the chunks whose jobs failed too often. Returns whether there was one."""
        settled = False
        for number in lost:
            opened, _ = await self._context.batches.open_chunks(batch.id)
            if number in opened:
                piece = (await self._pieces(batch))[number]
                await settle(self._context, batch, piece, opened[number], NeverRan.WORKER_LOST)
                settled = True
        return settled

    async def _close(self, batch: Batch, event: BatchEvent, why: NeverRan) -> None:
        """Stop running chunks, then write the finished rows, and an error for each of the others."""
        await self._note(batch)
        opened, _ = await self._context.batches.open_chunks(batch.id)
        jobs = [chunk.job for chunk in opened.values() if chunk.job]
        states = await self._context.batches.job_states(jobs)
        live = [job for job, state in zip(jobs, states, strict=True) if state in LIVE]
        if live:
            for job in live:
                await self._context.store.cancel(job)
            await self._rest(RUNNING_S)
            return
        opened, done = await self._context.batches.chunks(batch.id)
        for piece in await self._pieces(batch):
            if piece.number not in done:
                await settle(self._context, batch, piece, opened.get(piece.number), why)
        await self._finish(batch, event)

    async def _finish(self, batch: Batch, event: BatchEvent) -> None:
        await self._note(batch)
        fresh = await self._fresh(batch)
        fields = await write_files(self._context, fresh)
        failpoints.hit("bulk.after_files")
        await self._step(fresh, event, dict(fields))


async def give_up(context: Context, batch_id: str, error: BaseException) -> None:
    """Record that an error of Penstock itself stopped a batch.

    While it is validated it fails: nothing of it has run. Later it is held, and tried again, since what was committed is
    not to be lost to a fault that may be mended.
    """
    batch = await context.batches.get(batch_id)
    if batch is None or batch.status is not BatchStatus.VALIDATING:
        await context.batches.hold(batch_id, INTERNAL)
    else:
        message = f"Penstock itself failed: {type(error).__name__}; the coordinator's log has the traceback"
        errors = encode_errors([RowError(RowErrorCode.INVALID_REQUEST, message)])
        await context.batches.step(batch, context.token, BatchStatus.FAILED, {"errors": errors})
