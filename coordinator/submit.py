"""The middle of a batch: submits its chunks as jobs, a few at a time, until all are done."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import deque

import msgspec
import structlog

from broker.acceptance import BYTES_PER_TOKEN
from broker.batch_chunks import ChunkSpec
from broker.batches import OpenChunk
from broker.catalogue import Catalogue
from broker.db.errors import BusyError, QueueFullError
from broker.models import Model
from coordinator.context import Context
from jobs.batch_model import Batch
from jobs.batches import Chunk, lane_for
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.ids import make_job_id
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.states import JobState
from jobs.worker_states import WorkerState

log = structlog.get_logger(__name__)

CHUNK_ATTEMPTS = 10
"""Attempts of a chunk's job; each lost worker costs one."""

GENERATIONS = 5
"""Jobs of one chunk that may fail without a new row; then its other rows count as lost."""

WAITING_PER_WORKER = 2
"""Chunks that wait in the queue for each live worker. A worker takes one when the rows of those that it has are all on its
engine, so those that run do not count: often only the last rows of a chunk are left.
"""

LIVE = {JobState.QUEUED, JobState.RUNNING}
_RATE_S = 1.0
_RATE_OVER_S = 15.0


class Rate:
    """The rate of a batch over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()
        self._told_s = float("-inf")

    def fields(self, batch: Batch) -> dict[str, float]:
        """Return the fields to write into the record now; empty if it is too early."""
        now = time.monotonic()
        if now - self._told_s < _RATE_S:
            return {}
        self._told_s = now
        rows = batch.counts.completed + batch.counts.failed
        self._seen.append((now, rows, batch.counts.output_tokens))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_OVER_S:
            self._seen.popleft()
        then, rows_then, tokens_then = self._seen[0]
        if now - then < _RATE_S / 2:
            return {}
        per_s = (rows - rows_then) / (now - then), (batch.counts.output_tokens - tokens_then) / (now - then)
        return {"rows_per_s": round(per_s[0], 3), "tokens_per_s": round(per_s[1], 3)}


def job_id_of(batch: Batch, chunk: int, generation: int) -> str:
    """Return the id of a chunk's job: the same in every process, so the job is accepted once."""
    seed = f"{batch.id}/{chunk}/{generation}".encode()
    return make_job_id(batch.created_ms, hashlib.sha256(seed).digest()[:10])


class Submitter:
    """Submits the chunks of one batch.

    Attributes:
        lost: chunks whose jobs failed too often; the caller settles them.
        running: at the last turn, a worker ran a chunk.
    """

    def __init__(self, context: Context, plan: list[Chunk]) -> None:
        self._context = context
        self._plan = plan
        self._catalogue = Catalogue(context.store)
        self._rate = Rate()
        self._lane: Lane | None = None  # of the chunks that wait
        self._stuck: dict[int, tuple[str, int]] = {}
        self.lost: set[int] = set()
        self.running = False

    async def turn(self, batch: Batch, now_ms: int) -> bool:
        """Submit the chunks that may be submitted now. Returns whether all chunks are done."""
        opened, done = await self._context.batches.open_chunks(batch.id)
        if done >= batch.chunks:
            return True
        batch = await self._note(batch, now_ms)
        told = await self._context.batches.job_states([chunk.job for chunk in opened.values()])
        states = dict(zip(opened, told, strict=True))
        await self._move(batch, opened, states)
        waiting = [
            again for number, chunk in opened.items() if (again := self._again(number, chunk, states[number]))
        ]
        self.running = JobState.RUNNING in told
        if batch.paused:
            return False
        await self._catalogue.refresh()
        room = self._room(batch, told.count(JobState.QUEUED), told.count(JobState.RUNNING))
        fresh = ((number, 1) for number in range(batch.next_chunk, batch.chunks))
        for number, generation in itertools.islice(itertools.chain(waiting, fresh), room):
            if not await self._submit(batch, number, generation):
                break
        return False

    async def _move(self, batch: Batch, opened: dict[int, OpenChunk], states: dict[int, str | None]) -> None:
        """Move chunks that wait in the queue to their batch's lane."""
        if batch.lane is self._lane:
            return
        for number, chunk in opened.items():
            if states[number] == JobState.QUEUED:
                await self._context.store.move(chunk.job, batch.lane)
        self._lane = batch.lane

    def _again(self, number: int, chunk: OpenChunk, state: str | None) -> tuple[int, int] | None:
        """Return the number and generation to submit a chunk with; None if it must not be submitted."""
        if state in LIVE:
            return None
        if chunk.job and state is None:
            return number, chunk.generation  # it was noted, but a crash came before it was accepted
        return (number, chunk.generation + 1) if self._may_go_on(number, chunk, state) else None

    def _may_go_on(self, number: int, chunk: OpenChunk, state: str | None) -> bool:
        """Whether a chunk without a live job gets another one: not if too many jobs committed no row."""
        if not chunk.job or state != JobState.FAILED:
            return number not in self.lost
        ledger, first = self._stuck.setdefault(number, (chunk.ledger, chunk.generation))
        if ledger != chunk.ledger:
            self._stuck[number] = (chunk.ledger, chunk.generation)
        elif chunk.generation - first + 1 >= GENERATIONS:
            self.lost.add(number)
            return False
        return True

    async def _note(self, batch: Batch, now_ms: int) -> Batch:
        """Write rate and lane into the record."""
        fields: dict[str, object] = dict(self._rate.fields(batch))
        left_s = (batch.expires_ms - now_ms) / 1000
        lane = lane_for(batch.priority, left_s, batch.window_ms / 1000, batch.eta_s)
        if lane is not batch.lane:
            fields["lane"] = lane.value
            log.info("batch_promoted", batch=batch.id, lane=lane.value, left_s=round(left_s))
        if fields:
            await self._context.batches.step(batch, self._context.token, None, fields)
        return batch if lane is batch.lane else await self._context.batches.get(batch.id) or batch

    def _pools(self, batch: Batch) -> list[Model]:
        """Return the batch's model in each pool that its chunks may go to, the best first."""
        ranked = self._catalogue.ranked(batch.model or "")
        able = [one for one in ranked if not one.endpoints or batch.endpoint in one.endpoints]
        return [one for one in able if one.broken is None and one.open_to(batch.tenant)] or able

    def _room(self, batch: Batch, queued: int, running: int) -> int:
        """Return how many chunks may be submitted now. One that runs has a row on the engine, unless storage fails."""
        alive = [worker for pool in self._pools(batch) for worker in self._catalogue.workers(pool)]
        workers = [worker for worker in alive if worker.state is not WorkerState.DRAINING]
        waiting = max(2, WAITING_PER_WORKER * len(workers)) - queued
        slots = sum(worker.capacity or 1 for worker in workers)
        return max(0, min(waiting, waiting + slots - running))

    async def _submit(self, batch: Batch, number: int, generation: int) -> bool:
        piece = self._plan[number]
        job = job_id_of(batch, number, generation)
        if not await self._context.batches.open_chunk(batch.id, self._context.token, number, job, generation):
            return False
        spec = ChunkSpec(
            batch=batch.id,
            chunk=number,
            generation=generation,
            input_key=batch.input_key,
            offset=piece.offset,
            length=piece.length,
            rows=piece.rows,
            endpoint=batch.endpoint,
            trace=batch.trace,
        )
        pools = self._pools(batch)
        try:
            accepted = await self._context.store.accept(
                JobSpec(
                    id=job,
                    endpoint=CHUNK_ENDPOINT,
                    model=batch.model or "",
                    body=msgspec.json.encode(spec),
                    pool=pools[0].pool if pools else "default",
                    lane=Lane(batch.lane),
                    tenant=batch.tenant,
                    metadata={"batch": batch.id, "chunk": str(number)},
                    max_attempts=CHUNK_ATTEMPTS,
                    prompt_tokens=piece.length // BYTES_PER_TOKEN,
                    answers=piece.rows,
                )
            )
        except (QueueFullError, BusyError) as error:
            log.info("batch_waits_for_queue", batch=batch.id, error=str(error))
            return False
        if pools:
            self._catalogue.book(pools[0])
        if not accepted.replayed:
            self._context.metrics.count_accepted(batch.lane, batch.tenant)
        return True
