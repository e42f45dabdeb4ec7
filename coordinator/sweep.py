"""Deletes expired files, objects without a file, and the parts and records of old batches; folds old usage."""

from __future__ import annotations

from broker.db.errors import FileInUseError
from coordinator.context import Context
from jobs.batch_keys import batch_folder

ORPHANED_S = 3600.0
"""Seconds after which an announced object without a file is deleted."""


_KEYS, _ROUNDS = 100, 10
"""Objects that are deleted in one step, and most steps: large bodies of jobs end as fast as jobs do."""


async def sweep(context: Context) -> None:
    """Delete a bounded number of things. Any number of coordinators may do it at once.

    Raises:
        StorageError: storage fails.
        StoreUnavailableError: Redis is away.
    """
    for file_id in await context.files.expired():
        try:
            await context.files.delete(file_id, only_if_expired=True)
        except FileInUseError:
            continue  # it is deleted after the batch's end
    await context.files.orphans(ORPHANED_S)
    for _ in range(_ROUNDS):
        keys = await context.files.trash(_KEYS)
        if keys:
            await context.storage.delete(keys)
            await context.files.emptied(keys)
        if len(keys) < _KEYS:
            break
    for batch_id in await context.batches.swept():
        found = await context.storage.list(batch_folder(batch_id))
        await context.storage.delete([info.key for info in found])
        await context.batches.parts_gone(batch_id)
    await context.batches.retire()
    await context.usage.fold(context.settings.usage_retention_days)
