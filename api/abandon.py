"""Cancelling, in the background, jobs whose callers are gone."""

from __future__ import annotations

import asyncio

import structlog

from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.jobs import JobStore

log = structlog.get_logger(__name__)

TRIES = 60
PAUSE_S = 1.0
UNKNOWN_TRIES = 3
"""Tries after which a job that the store does not know counts as never accepted."""

CLOSE_S = 1.0


class Abandoned:
    """The jobs that are being cancelled."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, job_id: str) -> None:
        """Begin to cancel a job."""
        task = asyncio.get_running_loop().create_task(self._cancel(job_id), name=f"abandon {job_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cancel(self, job_id: str) -> None:
        unknown = 0
        for _ in range(TRIES):
            try:
                state = await self._store.cancel(job_id)
            except StoreUnavailableError:
                state = None
            except StoreFaultError:
                break
            else:
                # A submission may still be on its way, through a connection that stalled.
                unknown += state is None
            if state is not None or unknown >= UNKNOWN_TRIES:
                return
            await asyncio.sleep(PAUSE_S)
        log.warning("abandoned_job_not_cancelled", job_id=job_id)

    async def aclose(self) -> None:
        """Give pending cancellations a moment, then drop them."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
