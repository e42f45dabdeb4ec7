"""Batches in Redis: each method is one atomic transition or one look-up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.db.calls.batches import BatchCancel, BatchCreate, BatchPause, BatchWatch
from broker.db.errors import BatchUnfinishedError, IdempotencyConflictError, NoInputFileError, OverQuotaError
from broker.files import page_of_ids
from broker.jobs import StorePart
from jobs.access import Actor, encoded, owns
from jobs.batch_model import Batch, Counts
from jobs.batch_rows import RowError, RowErrorCode
from jobs.batches import BatchStatus
from jobs.lanes import Lane

_TEXTS = ("id", "endpoint", "input_file_id", "input_key", "window")
_TOLD = ("endpoint", "input_key", "window", "priority", "trace", "key", "webhook")
_LATER_TEXTS = (
    "model",
    "output_file_id",
    "error_file_id",
    "hold",
    "closing",
    "trace",
    "retried_as",
    "webhook",
)


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """A validated ``POST /v1/batches``. See :class:`jobs.batch_model.Batch` for the fields; ``key`` as of a job.

    ``owner``: the tenant that creates it, of whose file it may be alone; None: an admin, or a process of ours.
    """

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
    owner: str | None = None
    idempotency_key: str | None = None
    digest: str = ""
    trace: str | None = None
    key: str | None = None
    webhook: str | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class OpenChunk:
    """A chunk that was submitted and is not done.

    Attributes:
        job: the job that it was last submitted as; empty: no job has it now.
        generation: how often it was submitted.
        ledger: see :func:`jobs.batches.parse_ledger`.
    """

    job: str
    generation: int
    ledger: str


class BatchStore(StorePart):
    """Batches' records: create and read them. :class:`broker.batch_steps.BatchSteps` drives them.

    ``owner``: the tenant that asks, for which another's batch does not exist; None: an admin, or a process.
    """

    async def create(self, spec: BatchSpec, *, by: Actor | None = None) -> tuple[Batch, bool]:
        """Create a batch, or find it by its idempotency key, or as the retry of ``spec.retry_of``.

        Args:
            by: who asked for a retry, for the audit stream, if the batch may be another's.

        Returns:
            The batch, and whether it is an earlier one.

        Raises:
            NoInputFileError: there is no such file, or it has another purpose.
            IdempotencyConflictError: the key belongs to another batch.
            BatchUnfinishedError: the batch to repeat has not ended.
            OverQuotaError: the tenant has as many open batches as it may.
            LookupError: there is no batch to repeat.
        """
        fields: dict[str, Any] = {name: getattr(spec, name) for name in _TOLD}
        fields["lane"] = spec.priority
        fields["metadata"] = None if spec.metadata is None else json.dumps(dict(spec.metadata))
        fields["output_after"] = spec.output_after_ms
        fields["strict"] = 1 if spec.strict else None
        call = BatchCreate(
            id=spec.id,
            tenant=spec.tenant,
            input_file_id=spec.input_file_id,
            window_ms=spec.window_ms,
            fields={name: value for name, value in fields.items() if value is not None},
            digest=spec.digest,
            idem_ttl_ms=self._store.retention_ms,
            idem=spec.idempotency_key,
            retry_of=spec.retry_of,
            owner=spec.owner,
            by=encoded(by),
        )
        created = await self._call(call)
        if created.kind == "over_quota":
            raise OverQuotaError("batches", created.most, 1)
        if created.kind == "no_file":
            raise NoInputFileError(spec.input_file_id, created.purpose)
        if created.kind == "conflict":
            raise IdempotencyConflictError(created.id)
        if created.kind == "unfinished":
            raise BatchUnfinishedError(spec.retry_of or "")
        batch = None if created.kind == "gone" else await self.get(created.id)
        if batch is None:
            raise LookupError(spec.retry_of or spec.id)
        return batch, created.kind == "same"

    async def get(self, batch_id: str, *, owner: str | None = None) -> Batch | None:
        """Read a batch; None: there is none."""
        batch = _batch(await self._execute(self._client.hgetall(self._keys("batch", batch_id))))
        return batch if batch is not None and owns(owner, batch.tenant) else None

    async def page(
        self, *, after: str | None, limit: int, newest_first: bool = True, owner: str | None = None
    ) -> tuple[list[Batch], bool]:
        """List batches by their creation; return them, and whether more follow."""
        ids, more = await page_of_ids(
            self._store, "batches", after, limit, newest_first=newest_first, owner=owner
        )
        pipe = self._client.pipeline(transaction=False)
        for batch_id in ids:
            pipe.hgetall(self._keys("batch", batch_id))
        rows = await self._execute(pipe.execute()) if ids else []
        return [batch for fields in rows if (batch := _batch(fields))], more

    async def cancel(
        self, batch_id: str, *, owner: str | None = None, by: Actor | None = None
    ) -> BatchStatus | None:
        """Cancel a batch. Returns its status now; None: there is no such batch."""
        reply = await self._call(BatchCancel(batch_id, owner, encoded(by)))
        return None if reply is None else BatchStatus(reply)

    async def watch(self, batch_id: str, sink: str, *, owner: str | None = None) -> bool:
        """Tell the api process ``sink`` of each change of a batch from now on. False: there is no such batch."""
        return await self._call(BatchWatch(batch_id, sink, owner))

    async def pause(
        self, batch_id: str, *, paused: bool, owner: str | None = None, by: Actor | None = None
    ) -> BatchStatus | None:
        """Pause or resume a batch. Returns its status now; None: there is no such batch."""
        reply = await self._call(BatchPause(batch_id, paused, owner, encoded(by)))
        return None if reply is None else BatchStatus(reply)

    async def chunks(self, batch_id: str) -> tuple[dict[int, OpenChunk], dict[int, str]]:
        """Read a batch's chunks: those submitted and not done, and the ledgers of those that are done."""
        pipe = self._client.pipeline(transaction=True)
        pipe.hgetall(self._keys("batch_open", batch_id))
        pipe.hgetall(self._keys("batch_done", batch_id))
        opened, done = await self._execute(pipe.execute())
        return open_chunks_of(opened), {n: done[str(n)] for n in sorted(map(int, done))}

    async def has_parts(self, batch_id: str) -> bool:
        """Whether an ended batch's parts are still in storage."""
        key = self._keys("batches_parts")
        return await self._execute(self._client.zscore(key, batch_id)) is not None


def open_chunks_of(opened: Mapping[str, str]) -> dict[int, OpenChunk]:
    """Read the chunks that the key ``batch_open`` holds, in their order."""
    entries = {n: json.loads(opened[str(n)]) for n in sorted(map(int, opened))}
    return {n: OpenChunk(one["job"], one["gen"], one["ledger"]) for n, one in entries.items()}


def _batch(f: Mapping[str, str]) -> Batch | None:
    if "status" not in f:
        return None
    counts = {name: int(f.get(name, 0)) for name in Counts.__dataclass_fields__}
    errors = [
        RowError(**{**one, "code": RowErrorCode(one["code"])}) for one in json.loads(f.get("errors", "[]"))
    ]
    texts: dict[str, Any] = {name: f[name] for name in _TEXTS} | {name: f.get(name) for name in _LATER_TEXTS}
    return Batch(
        **texts,
        status=BatchStatus(f["status"]),
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
        errors=tuple(errors),
        strict="strict" in f,
        unknown_fields=tuple((name, line) for name, line in json.loads(f.get("unknown_fields", "[]"))),
        paused="paused" in f,
        rows_per_s=float(f["rows_per_s"]) if "rows_per_s" in f else None,
        tokens_per_s=float(f["tokens_per_s"]) if "tokens_per_s" in f else None,
        retry_of=f.get("retry_of") or None,
        plan=f.get("plan", "plan"),
        chunks=int(f.get("chunks", 0)),
        revision=int(f.get("revision", 0)),
        next_chunk=int(f.get("next", 0)),
    )
