"""The middle of a batch: its chunks are submitted as jobs, a few at a time, until all are done."""

from __future__ import annotations

import hashlib
import time
from collections import deque

import msgspec
import structlog

from api.bulk.context import Bulk
from broker.batch_chunks import ChunkSpec
from broker.batches import OpenChunk
from broker.catalogue import Catalogue, Model
from broker.db.errors import BusyError, QueueFullError
from jobs.batch_model import Batch
from jobs.batches import Chunk, lane_for
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.ids import make_job_id
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.states import JobState

log = structlog.get_logger(__name__)

CHUNK_ATTEMPTS = 10
"""Workers that a chunk's job may lose."""

GENERATIONS = 5
"""Jobs of one chunk that may fail without any new row; then its rest counts as lost."""

PER_WORKER = 2
"""Chunks that are submitted at once for each live worker."""

_LIVE = {JobState.QUEUED, JobState.RUNNING}
_RATE_S = 1.0
_RATE_OVER_S = 15.0


class Rate:
    """How fast a batch goes, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque()
        self._told_s = float("-inf")

    def fields(self, batch: Batch) -> dict[str, float]:
        """Return what to write into the record now; empty where it is not time."""
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
    """Return the id of a chunk's job: the same from whichever process, so that it is accepted once."""
    seed = f"{batch.id}/{chunk}/{generation}".encode()
    return make_job_id(batch.created_ms, hashlib.sha256(seed).digest()[:10])


class Submitter:
    """Submits the chunks of one batch.

    Args:
        bulk: the stores.
        plan: how the input is cut.
    """

    def __init__(self, bulk: Bulk, plan: list[Chunk]) -> None:
        self._bulk = bulk
        self._plan = plan
        self._rate = Rate()
        self._lane: Lane | None = None  # of the chunks that wait
        self._stuck: dict[int, tuple[str, int]] = {}
        self._lost: set[int] = set()

    @property
    def lost(self) -> frozenset[int]:
        """Chunks whose jobs failed too often; the caller settles them."""
        return frozenset(self._lost)

    async def turn(self, batch: Batch, now_ms: int) -> bool:
        """Submit what may be submitted now. Returns whether all chunks are done."""
        opened, done = await self._bulk.batches.open_chunks(batch.id)
        if done >= batch.chunks:
            return True
        batch = await self._note(batch, now_ms)
        told = await self._bulk.batches.job_states([chunk.job for chunk in opened.values()])
        states = dict(zip(opened, told, strict=True))
        await self._move(batch, opened, states)
        waiting = [
            again for number, chunk in opened.items() if (again := self._again(number, chunk, states[number]))
        ]
        live = sum(state in _LIVE for state in told)
        if batch.paused:
            return False
        room = max(2, PER_WORKER * await self._workers(batch)) - live
        fresh = range(batch.next_chunk, batch.chunks)
        for number, generation in [*waiting, *((number, 1) for number in fresh[: max(0, room)])][
            : max(0, room)
        ]:
            if not await self._submit(batch, number, generation):
                break
        return False

    async def _move(self, batch: Batch, opened: dict[int, OpenChunk], states: dict[int, str | None]) -> None:
        """Have chunks that wait in the queue follow their batch to another lane."""
        if batch.lane is self._lane:
            return
        for number, chunk in opened.items():
            if states[number] == JobState.QUEUED:
                await self._bulk.store.move(chunk.job, batch.lane)
        self._lane = batch.lane

    def _again(self, number: int, chunk: OpenChunk, state: str | None) -> tuple[int, int] | None:
        """Say whether a chunk is to be submitted (again): its number and generation."""
        if state in _LIVE:
            return None
        if chunk.job and state is None:
            return number, chunk.generation  # it was noted, and not accepted before a crash
        return (number, chunk.generation + 1) if self._may_go_on(number, chunk, state) else None

    def _may_go_on(self, number: int, chunk: OpenChunk, state: str | None) -> bool:
        """Say whether a chunk without a live job gets another one: not if too many brought nothing."""
        if not chunk.job or state != JobState.FAILED:
            return number not in self._lost
        ledger, first = self._stuck.setdefault(number, (chunk.ledger, chunk.generation))
        if ledger != chunk.ledger:
            self._stuck[number] = (chunk.ledger, chunk.generation)
        elif chunk.generation - first + 1 >= GENERATIONS:
            self._lost.add(number)
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
            await self._bulk.batches.step(batch, self._bulk.token, None, fields)
        return batch if lane is batch.lane else await self._bulk.batches.get(batch.id) or batch

    async def _workers(self, batch: Batch) -> int:
        return sum(batch.model in worker.get("models", ()) for worker in await self._bulk.store.workers())

    async def _submit(self, batch: Batch, number: int, generation: int) -> bool:
        piece = self._plan[number]
        job = job_id_of(batch, number, generation)
        if not await self._bulk.batches.open_chunk(batch.id, self._bulk.token, number, job, generation):
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
        catalogue = Catalogue(self._bulk.store)
        await catalogue.refresh()
        pools = [one for one in catalogue.ranked(batch.model or "") if _can(one, batch.endpoint)]
        try:
            accepted = await self._bulk.store.accept(
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
                )
            )
        except (QueueFullError, BusyError) as error:
            log.info("batch_waits_for_queue", batch=batch.id, error=str(error))
            return False
        if not accepted.replayed:
            self._bulk.count_accepted(batch.lane, batch.tenant)
        return True


def _can(model: Model, endpoint: str) -> bool:
    return not model.endpoints or endpoint in model.endpoints
