"""Indexes by tenant of jobs, files and batches that were made before there were any: built once.

From then on the functions that create an object write its entry, and those that delete it remove it.
"""

from __future__ import annotations

from typing import Final

import structlog

from broker.db.calls.queues import IndexTenants
from broker.jobs import JobStore

log = structlog.get_logger(__name__)

_ROOMS: Final = ("jobs", "files", "batches")
_MARK: Final = "indexes"
_PAGE: Final = 500


async def index_tenants(store: JobStore) -> None:
    """Build the indexes if no process has done so. Any number of processes may call it, while others work.

    Raises:
        StoreUnavailableError: Redis is away; call it again.
    """
    access = store.keys("access")
    if await store.execute(store.client.hexists(access, _MARK)):
        return
    counts = {room: await _index(store, room) for room in _ROOMS}
    await store.execute(store.client.hset(access, _MARK, 1))
    if any(counts.values()):
        log.info("tenants_indexed", **counts)


async def _index(store: JobStore, room: str) -> int:
    """Add each object of a room to its tenant's index; return how many were looked at."""
    seen, cursor = 0, 0
    while True:
        # Entries come and go meanwhile. A scan passes over none that is there all the time.
        cursor, entries = await store.execute(store.client.zscan(store.keys(room), cursor, count=_PAGE))
        ids = [ident for ident, _ in entries]
        seen += len(ids)
        for first in range(0, len(ids), _PAGE):
            await store.functions.call(IndexTenants(room, ids[first : first + _PAGE]))
        if cursor == 0:
            return seen
