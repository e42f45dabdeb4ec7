"""Retrying a batch: the failed rows of an ended batch become the input of another, once."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from broker.batches import BatchSpec
from broker.db.errors import OverQuotaError
from broker.files import FileRole
from coordinator.context import Context
from jobs.access import Actor
from jobs.batch_keys import file_key
from jobs.batch_model import Batch, File
from monitoring import failpoints
from storage.base import read_lines

log = structlog.get_logger(__name__)

_BATCH_OF_WRITES = 1024 * 1024

_KEPT = ("endpoint", "window", "window_ms", "priority", "tenant", "metadata", "output_after_ms", "webhook")
"""The fields that the new batch has of the old one."""


class _Named(msgspec.Struct):
    id: str


_decode = msgspec.json.Decoder(_Named).decode


async def retry(context: Context, batch: Batch, args: Mapping[str, Any]) -> dict[str, str]:
    """Create a batch of the failed rows, or find the one that was created before.

    It may be repeated after a crash: the ids are the caller's, so the second try finds what the first one left.

    Args:
        batch: an ended batch with an error file.
        args: ``file_id`` and ``batch_id`` for the new objects, ``keep_ms``: how long the new input is kept, ``trace``: the
            caller's place in a trace, ``by``: who that is, for the audit stream.

    Returns:
        ``id``: the new batch's.

    Raises:
        FileGoneError: the input or the error file was deleted or has expired.
        OverQuotaError: the tenant has as many open batches as it may.
        StorageError: storage fails.
    """
    if batch.retried_as is not None and await context.batches.get(batch.retried_as) is not None:
        return {"id": batch.retried_as}
    await context.files.of_batch(batch, FileRole.INPUT, FileRole.ERROR)
    await context.files.announce(args["file_id"], file_key(args["file_id"]))
    file = await _failed_rows(context, batch, args["file_id"])
    await context.files.create(file, expires_after_ms=args["keep_ms"])
    failpoints.hit("coordinator.before_child")
    kept: dict[str, Any] = {name: getattr(batch, name) for name in _KEPT}
    by = Actor.decode(args["by"])
    spec = BatchSpec(
        args["batch_id"], file.id, file.key, retry_of=batch.id, trace=args["trace"], key=by.key, **kept
    )
    try:
        child, _ = await context.batches.create(spec, by=by)
    except OverQuotaError:
        await context.files.delete(file.id)
        raise
    if child.input_file_id != file.id:  # another coordinator created the batch first
        await context.files.delete(file.id)
    return {"id": child.id}


async def _failed_rows(context: Context, batch: Batch, file_id: str) -> File:
    """Write the input lines of a batch's failed rows into a new file, in the order of the input.

    An error line's id holds the offset of its request in the input, so memory is 8 bytes a row.

    Raises:
        StorageError: storage fails, or the input or error file is gone. Nothing is left behind.
    """
    offsets = array("Q")
    async for _, lines in read_lines(context.storage, file_key(batch.error_file_id or "")):
        for line in lines:
            offsets.append(int(_decode(line).id.rpartition("_")[2]))
    wanted = iter(sorted(offsets))
    writer = await context.storage.writer(file_key(file_id))
    try:
        pending, size, at = [], 0, next(wanted, None)
        async for offset, lines in read_lines(context.storage, batch.input_key):
            for line in lines:
                if offset == at:
                    pending.append(line + b"\n")
                    size += len(line)
                    at = next(wanted, None)
                offset += len(line) + 1  # noqa: PLW2901 - of the next line
            if size >= _BATCH_OF_WRITES:
                await writer.write(b"".join(pending))
                pending, size = [], 0
        await writer.write(b"".join(pending))
        length = await writer.commit()
    except BaseException:
        await writer.abort()
        raise
    name = f"{batch.id}_retry.jsonl"
    return File(file_id, length, name, "batch", file_key(file_id), 0, tenant=batch.tenant)
