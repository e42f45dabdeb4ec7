"""The coordinator's side of a batch: its lease, its steps and its chunks. Fenced by the lease."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from broker.batches import BatchStore, OpenChunk, open_chunks_of
from broker.db.calls.batches import BatchHold, BatchLease, BatchStep, ChunkOpen, ChunkSettle
from broker.jobs import JobStore
from jobs.access import DEFAULT_TENANT
from jobs.batch_model import Batch, Counts
from jobs.batch_rows import RowError
from jobs.batches import BatchStatus


class BatchSteps(BatchStore):
    """Batches as their coordinator sees them. Every method raises ``StoreUnavailableError`` when Redis cannot be reached.

    Args:
        retention_s: how long an ended batch's record is kept.
        parts_retention_s: how long its parts are kept in storage; no longer than the record.
    """

    def __init__(self, store: JobStore, retention_s: float, parts_retention_s: float) -> None:
        super().__init__(store)
        self._retention_ms = int(retention_s * 1000)
        self._parts_ms = int(min(retention_s, parts_retention_s) * 1000)

    async def undriven(self) -> list[str]:
        """Return ids of the batches that have not ended and that no coordinator drives."""
        ids = sorted(await self._execute(self._client.smembers(self._keys("batches_active"))))
        leases = [self._keys("batch_lease", batch_id) for batch_id in ids]
        holders = await self._execute(self._client.mget(leases)) if leases else []
        return [batch_id for batch_id, holder in zip(ids, holders, strict=True) if holder is None]

    async def lease(self, batch_id: str, token: str, ttl_s: float) -> bool:
        """Take or prolong the lease on a batch; 0 seconds end it. False: another coordinator has it."""
        return await self._call(BatchLease(batch_id, token, int(ttl_s * 1000)))

    async def step(
        self, batch: Batch, token: str, to: BatchStatus | None = None, fields: Mapping[str, Any] | None = None
    ) -> bool:
        """Move a batch from the status in which it was read to another, or (None) only write fields.

        False: the lease or the status is another by now; nothing was written.
        """
        target = batch.status if to is None else to
        call = BatchStep(
            batch=batch.id,
            token=token,
            was=batch.status,
            to=target,
            ends=target.terminal,
            fields={name: "" if value is None else value for name, value in (fields or {}).items()},
            retention_ms=self._retention_ms,
            parts_retention_ms=self._parts_ms,
        )
        return await self._call(call)

    async def hold(self, batch_id: str, reason: str | None) -> None:
        """Record why a batch is on hold, or (None) that it is not."""
        await self._call(BatchHold(batch_id, reason))

    async def open_chunk(self, batch_id: str, token: str, chunk: int, job: str, generation: int) -> bool:
        """Record that a chunk is about to be submitted. False: it must not be submitted."""
        return await self._call(ChunkOpen(batch_id, token, chunk, job, generation))

    async def settle_chunk(self, batch_id: str, token: str, chunk: int, ledger: str, new: Counts) -> bool:
        """End a chunk whose other rows will never run, and count ``new`` rows. False: another coordinator has the lease."""
        return await self._call(ChunkSettle(batch_id, token, chunk, ledger, new))

    async def open_chunks(self, batch_id: str) -> tuple[dict[int, OpenChunk], int]:
        """Read the chunks that were submitted and are not done, and how many are done."""
        pipe = self._client.pipeline(transaction=True)
        pipe.hgetall(self._keys("batch_open", batch_id))
        pipe.hlen(self._keys("batch_done", batch_id))
        opened, done = await self._execute(pipe.execute())
        return open_chunks_of(opened), done

    async def job_states(self, jobs: list[str]) -> list[str | None]:
        """Read the states of chunks' jobs; None: there is no such job."""
        pipe = self._client.pipeline(transaction=False)
        for job in jobs:
            pipe.hget(self._keys("job", job), "state")
        return list(await self._execute(pipe.execute())) if jobs else []

    async def swept(self, limit: int = 10) -> list[str]:
        """Return ids of ended batches whose parts must be deleted."""
        key, now_ms = self._keys("batches_parts"), await self._store.now_ms()
        return list(await self._execute(self._client.zrangebyscore(key, 0, now_ms, 0, limit)))

    async def parts_gone(self, batch_id: str) -> None:
        """Record that a batch's parts are deleted from storage."""
        await self._execute(self._client.zrem(self._keys("batches_parts"), batch_id))

    async def retire(self) -> None:
        """Delete what is left of batches whose retention is over, in the indexes, too."""
        due, now_ms = self._keys("batches_retire"), await self._store.now_ms()
        gone = await self._execute(self._client.zrangebyscore(due, 0, now_ms, 0, 100))
        if gone:
            pipe = self._client.pipeline(transaction=False)
            for one in gone:
                pipe.hget(self._keys("batch", one), "tenant")
            tenants = await self._execute(pipe.execute())
            pipe = self._client.pipeline(transaction=True)
            for one, tenant in zip(gone, tenants, strict=True):
                pipe.zrem(self._keys("batches_of", tenant or DEFAULT_TENANT), one)
            pipe.delete(
                *(self._keys(key, one) for one in gone for key in ("batch", "batch_done", "batch_open"))
            )
            pipe.zrem(self._keys("batches"), *gone)
            pipe.zrem(due, *gone)
            await self._execute(pipe.execute())


def encode_errors(errors: list[RowError]) -> str:
    """Write row errors for a batch's record."""
    return json.dumps([asdict(error) for error in errors])
