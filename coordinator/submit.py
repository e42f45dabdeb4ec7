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
from coordinator.context import Context
from jobs.batch_model import Batch
from jobs.batches import Chunk, lane_for
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.ids import make_job_id
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.states import JobState

log = structlog.get_logger(__name__)

CHUNK_ATTEMPTS = 10
"""Attempts of a chunk's job; each lost worker costs one."""

GENERATIONS = 5
"""Jobs of one chunk that may fail without a new row; then its other rows count as lost."""

PER_WORKER = 2
"""Chunks that are submitted at once for each live worker, at least."""

MOST_PER_WORKER = 32
"""The same, at most."""

SLOTS_PER_CHUNK = 4
"""Beyond :data:`PER_WORKER`, one chunk for so many slots. A chunk above the lane ``bulk`` counts as a call for its worker,
so many small ones would leave calls no slot."""

ROUNDS = 3
"""Rows that are submitted at once, for each slot of the live workers. A chunk's job ends after its last rows, which run for
a while after all of its rows have started. Meanwhile other chunks must have rows for the free slots."""

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
        live = [number for number in opened if states[number] in LIVE]
        self.running = JobState.RUNNING in told
        if batch.paused:
            return False
        least, most, wanted = await self._bounds(batch)
        chunks, rows = len(live), sum(self._plan[number].rows for number in live)
        fresh = ((number, 1) for number in range(batch.next_chunk, batch.chunks))
        for number, generation in itertools.chain(waiting, fresh):
            if chunks >= least and (chunks >= most or rows >= wanted):
                break
            if not await self._submit(batch, number, generation):
                break
            chunks, rows = chunks + 1, rows + self._plan[number].rows
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

    async def _bounds(self, batch: Batch) -> tuple[int, int, int]:
        """Return how many chunks may be live: at least, and at most; between the two, until they have so many rows."""
        workers = [one for one in await self._context.store.workers() if batch.model in one.get("models", ())]
        slots = sum(one.get("capacity") or 1 for one in workers)
        least = max(2, PER_WORKER * len(workers))
        most = max(least, min(MOST_PER_WORKER * len(workers), slots // SLOTS_PER_CHUNK))
        return least, most, ROUNDS * slots

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
        catalogue = Catalogue(self._context.store)
        await catalogue.refresh()
        ranked = catalogue.ranked(batch.model or "")
        able = [one for one in ranked if not one.endpoints or batch.endpoint in one.endpoints]
        pools = [one for one in able if one.broken is None and one.open_to(batch.tenant)] or able
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
        if not accepted.replayed:
            self._context.metrics.count_accepted(batch.lane, batch.tenant)
        return True
