"""The failed rows of an ended batch as the input of another."""

from __future__ import annotations

from array import array

import msgspec

from coordinator.context import Breath, Bulk
from jobs.batch_keys import file_key
from jobs.batch_model import Batch, File
from storage.base import read_lines

_BATCH_OF_WRITES = 1024 * 1024


class _Named(msgspec.Struct):
    id: str


_decode = msgspec.json.Decoder(_Named).decode


async def failed_rows(bulk: Bulk, batch: Batch, file_id: str) -> File:
    """Write the input lines of a batch's failed rows into a new file, in the order of the input.

    An error line's id says at which byte of the input its request stands, so that 8 bytes a row are held.

    Raises:
        StorageError: storage fails, or the input or error file is gone. Nothing is left behind.
    """
    breath = Breath()
    offsets = array("Q")
    async for _, lines in read_lines(bulk.storage, file_key(batch.error_file_id or "")):
        for line in lines:
            offsets.append(int(_decode(line).id.rpartition("_")[2]))
            await breath.take()
    wanted = iter(sorted(offsets))
    writer = await bulk.storage.writer(file_key(file_id))
    try:
        pending, size, at = [], 0, next(wanted, None)
        async for offset, lines in read_lines(bulk.storage, batch.input_key):
            for line in lines:
                if offset == at:
                    pending.append(line + b"\n")
                    size += len(line)
                    at = next(wanted, None)
                offset += len(line) + 1  # noqa: PLW2901 - of the next line
                await breath.take()
            if size >= _BATCH_OF_WRITES:
                await writer.write(b"".join(pending))
                pending, size = [], 0
        await writer.write(b"".join(pending))
        length = await writer.commit()
    except BaseException:
        await writer.abort()
        raise
    return File(file_id, length, f"{batch.id}_retry.jsonl", "batch", file_key(file_id), 0)
