"""Deleting what nobody needs any more: expired files, objects of no file, parts and records of old batches."""

from __future__ import annotations

from broker.db.errors import FileInUseError
from coordinator.context import Bulk
from jobs.batch_keys import batch_folder

ORPHANED_S = 3600.0
"""Seconds after which an object whose file was not recorded is nobody's."""


async def sweep(bulk: Bulk) -> None:
    """Delete a bounded number of things. Any number of processes may do it at once.

    Raises:
        StorageError: storage fails.
        StoreUnavailableError: Redis is away.
    """
    for file_id in await bulk.files.expired():
        try:
            await bulk.files.delete(file_id, only_if_expired=True)
        except FileInUseError:
            continue  # it goes when the batch has ended
    await bulk.files.orphans(ORPHANED_S)
    keys = await bulk.files.trash()
    if keys:
        await bulk.storage.delete(keys)
        await bulk.files.emptied(keys)
    for batch_id in await bulk.batches.swept():
        found = await bulk.storage.list(batch_folder(batch_id))
        await bulk.storage.delete([info.key for info in found])
        await bulk.batches.parts_gone(batch_id)
    await bulk.batches.retire()
