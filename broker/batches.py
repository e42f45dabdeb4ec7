"""Batches in Redis: each method is one atomic transition or one look-up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from broker.db.errors import (
    BatchUnfinishedError,
    IdempotencyConflictError,
    NoInputFileError,
)
from broker.files import page_of_ids
from broker.jobs import JobStore
from jobs.batch_model import Batch, Counts
from jobs.batch_rows import RowError, RowErrorCode
from jobs.batches import BatchStatus
from jobs.lanes import Lane


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """A validated ``POST /v1/batches``. See :class:`jobs.batch_model.Batch` for the fields."""

    id: str
    input_file_id: str
    input_key: str
    endpoint: str
    window: str
    window_ms: int
    priority: Lane = Lane.BULK
    tenant: str = "default"
    metadata: Mapping[str, str] | None = None
    output_after_ms: int | None = None
    retry_of: str | None = None
    idempotency_key: str | None = None
    digest: str = ""
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class OpenChunk:
    """A chunk that was submitted and is not done.

    Attributes:
        job: the job that it was last submitted as; empty where none has it now.
        generation: how often it was submitted.
        ledger: see :func:`jobs.batches.parse_ledger`.
    """

    job: str
    generation: int
    ledger: str


class BatchStore:
    """Batches' records. Every method raises ``StoreUnavailableError`` when Redis cannot be reached.

    Args:
        store: whose connection and scripts to use.
        retention_ms: how long an ended batch's record is kept.
        parts_ms: how long its parts are kept in storage.
    """

    def __init__(self, store: JobStore, retention_ms: int, parts_ms: int) -> None:
        self._store = store
        self._keys = store.keys
        self._retention_ms = retention_ms
        self._parts_ms = parts_ms

    # ---- the front ---------------------------------------------------------------------------------------------

    async def create(self, spec: BatchSpec) -> tuple[Batch, bool]:
        """Create a batch, or find it by its idempotency key, or as the repetition of ``spec.retry_of``.

        Returns:
            The batch, and whether it is an earlier one.

        Raises:
            NoInputFileError: there is no such file, or it has another purpose.
            IdempotencyConflictError: the key belongs to another batch.
            BatchUnfinishedError: the batch to repeat has not ended.
            LookupError: there is no batch to repeat.
        """
        fields: list[Any] = ["endpoint", spec.endpoint, "window", spec.window, "window_ms", spec.window_ms]
        fields += ["priority", spec.priority.value, "lane", spec.priority.value, "input_key", spec.input_key]
        fields += ["tenant", spec.tenant]
        if spec.trace is not None:
            fields += ["trace", spec.trace]
        if spec.metadata is not None:
            fields += ["metadata", json.dumps(dict(spec.metadata))]
        if spec.output_after_ms is not None:
            fields += ["output_after", spec.output_after_ms]
        kind, *told = await self._store.scripts.call(
            "batch/create",
            spec.id,
            spec.input_file_id,
            "" if spec.idempotency_key is None else f"{spec.tenant}:{spec.idempotency_key}",
            spec.digest,
            self._store.retention_ms,
            spec.window_ms,
            spec.retry_of or "",
            *fields,
        )
        if kind in {"no_file", "purpose"}:
            raise NoInputFileError(spec.input_file_id, told[0] if told else None)
        if kind == "conflict":
            raise IdempotencyConflictError(told[0])
        if kind == "unfinished":
            raise BatchUnfinishedError(spec.retry_of or "")
        batch = None if kind == "gone" else await self.get(told[0])
        if batch is None:
            raise LookupError(spec.retry_of or spec.id)
        return batch, kind == "same"

    async def get(self, batch_id: str) -> Batch | None:
        """Read a batch; None: there is none."""
        return _batch(await self._store.execute(self._store.client.hgetall(self._keys("batch", batch_id))))

    async def page(
        self, *, after: str | None, limit: int, newest_first: bool = True
    ) -> tuple[list[Batch], bool]:
        """List batches by their creation; return them, and whether there are more behind ``after``'s page."""
        ids, more = await page_of_ids(self._store, "batches", after, limit, newest_first=newest_first)
        pipe = self._store.client.pipeline(transaction=False)
        for batch_id in ids:
            pipe.hgetall(self._keys("batch", batch_id))
        rows = await self._store.execute(pipe.execute()) if ids else []
        return [batch for fields in rows if (batch := _batch(fields))], more

    async def cancel(self, batch_id: str) -> BatchStatus | None:
        """Ask for a batch's end. Returns the status it is in now; None: there is none."""
        reply = await self._store.scripts.call("batch/cancel", batch_id)
        return None if reply is None else BatchStatus(reply)

    async def pause(self, batch_id: str, *, paused: bool) -> BatchStatus | None:
        """Pause a batch or let it go on. Returns the status it is in now; None: there is none."""
        reply = await self._store.scripts.call("batch/pause", batch_id, int(paused))
        return None if reply is None else BatchStatus(reply)

    # ---- the coordinator ---------------------------------------------------------------------------------------

    async def active(self) -> list[str]:
        """Return ids of batches that have not ended."""
        return sorted(await self._store.execute(self._store.client.smembers(self._keys("batches_active"))))

    async def lease(self, batch_id: str, token: str, ttl_s: float) -> bool:
        """Take or prolong the right to look after a batch; 0 seconds give it up. False: another process has it."""
        reply = await self._store.scripts.call("batch/lease", batch_id, token, int(ttl_s * 1000))
        return bool(reply)

    async def step(
        self, batch: Batch, token: str, to: BatchStatus | None = None, fields: Mapping[str, Any] | None = None
    ) -> bool:
        """Move a batch from the status in which it was read to another, or (None) only write fields.

        False: the lease or the status is another by now; nothing was written.
        """
        flat: list[Any] = []
        for name, value in (fields or {}).items():
            flat += (name, "" if value is None else value)
        target = batch.status if to is None else to
        return bool(
            await self._store.scripts.call(
                "batch/step",
                batch.id,
                token,
                batch.status.value,
                target.value,
                int(target.terminal),
                self._retention_ms,
                self._parts_ms,
                *flat,
            )
        )

    async def hold(self, batch_id: str, reason: str | None) -> None:
        """Note why a batch cannot go on, or (None) that it can."""
        await self._store.scripts.call("batch/hold", batch_id, reason or "")

    async def open_chunk(self, batch_id: str, token: str, chunk: int, job: str, generation: int) -> bool:
        """Note that a chunk is about to be submitted. False: it must not be."""
        reply = await self._store.scripts.call("batch/chunk_open", batch_id, token, chunk, job, generation)
        return bool(reply)

    async def settle_chunk(self, batch_id: str, token: str, chunk: int, ledger: str, new: Counts) -> bool:
        """End a chunk whose rest will never run; ``new`` rows are counted. False: the lease is another's."""
        return bool(
            await self._store.scripts.call(
                "batch/chunk_settle", batch_id, token, chunk, ledger, *numbers(new)
            )
        )

    async def chunks(self, batch_id: str) -> tuple[dict[int, OpenChunk], dict[int, str]]:
        """Read a batch's chunks: those submitted and not done, and the ledgers of those that are done."""
        pipe = self._store.client.pipeline(transaction=True)
        pipe.hgetall(self._keys("batch_open", batch_id))
        pipe.hgetall(self._keys("batch_done", batch_id))
        opened, done = await self._store.execute(pipe.execute())
        return (
            {int(n): _open(raw) for n, raw in sorted(opened.items(), key=lambda one: int(one[0]))},
            {int(n): ledger for n, ledger in sorted(done.items(), key=lambda one: int(one[0]))},
        )

    async def open_chunks(self, batch_id: str) -> tuple[dict[int, OpenChunk], int]:
        """Read the chunks that were submitted and are not done, and how many are done."""
        pipe = self._store.client.pipeline(transaction=True)
        pipe.hgetall(self._keys("batch_open", batch_id))
        pipe.hlen(self._keys("batch_done", batch_id))
        opened, done = await self._store.execute(pipe.execute())
        ordered = sorted(opened.items(), key=lambda one: int(one[0]))
        return {int(n): _open(raw) for n, raw in ordered}, done

    async def job_states(self, jobs: list[str]) -> list[str | None]:
        """Read the states of chunks' jobs; None: there is no such job."""
        pipe = self._store.client.pipeline(transaction=False)
        for job in jobs:
            pipe.hget(self._keys("job", job), "state")
        return list(await self._store.execute(pipe.execute())) if jobs else []

    async def swept(self, limit: int = 10) -> list[str]:
        """Return ids of ended batches whose parts are to be deleted."""
        seconds, _ = await self._store.execute(self._store.client.time())
        key = self._keys("batches_parts")
        return list(
            await self._store.execute(self._store.client.zrangebyscore(key, 0, seconds * 1000, 0, limit))
        )

    async def parts_gone(self, batch_id: str) -> None:
        """Note that a batch's parts are gone from storage."""
        await self._store.execute(self._store.client.zrem(self._keys("batches_parts"), batch_id))

    async def has_parts(self, batch_id: str) -> bool:
        """Whether an ended batch's parts are still in storage."""
        key = self._keys("batches_parts")
        return await self._store.execute(self._store.client.zscore(key, batch_id)) is not None

    async def retire(self) -> list[str]:
        """Forget batches whose time is over; return their ids."""
        return list(await self._store.scripts.call("batch/retire", 100))


def numbers(counts: Counts) -> tuple[int, ...]:
    """Return what scripts add to a batch's counts, in their order."""
    return (
        counts.completed,
        counts.failed,
        counts.input_tokens,
        counts.output_tokens,
        counts.cached_tokens,
        counts.reasoning_tokens,
    )


def _open(raw: str) -> OpenChunk:
    entry = json.loads(raw)
    return OpenChunk(entry["job"], int(entry["gen"]), entry["ledger"])


def encode_errors(errors: list[RowError]) -> str:
    """Write row errors for a batch's record."""
    return json.dumps([asdict(error) for error in errors])


def _batch(f: Mapping[str, str]) -> Batch | None:
    if "status" not in f:
        return None
    counts = {name: int(f.get(name, 0)) for name in Counts.__dataclass_fields__}
    errors = [
        RowError(**{**one, "code": RowErrorCode(one["code"])}) for one in json.loads(f.get("errors", "[]"))
    ]
    return Batch(
        id=f["id"],
        status=BatchStatus(f["status"]),
        endpoint=f["endpoint"],
        input_file_id=f["input_file_id"],
        input_key=f["input_key"],
        window=f["window"],
        window_ms=int(f["window_ms"]),
        created_ms=int(f["created"]),
        expires_ms=int(f["expires"]),
        priority=Lane(f["priority"]),
        lane=Lane(f["lane"]),
        tenant=f.get("tenant", "default"),
        counts=Counts(**counts),
        times={s.value: int(f[f"{s}_at"]) for s in BatchStatus if f"{s}_at" in f},
        metadata=json.loads(f["metadata"]) if "metadata" in f else None,
        output_after_ms=int(f["output_after"]) if "output_after" in f else None,
        model=f.get("model"),
        output_file_id=f.get("output_file_id"),
        error_file_id=f.get("error_file_id"),
        errors=tuple(errors),
        paused="paused" in f,
        hold=f.get("hold"),
        closing=f.get("closing"),
        rows_per_s=float(f["rows_per_s"]) if "rows_per_s" in f else None,
        tokens_per_s=float(f["tokens_per_s"]) if "tokens_per_s" in f else None,
        retry_of=f.get("retry_of") or None,
        trace=f.get("trace"),
        retried_as=f.get("retried_as"),
        chunks=int(f.get("chunks", 0)),
        next_chunk=int(f.get("next", 0)),
    )
