"""The version of keys and tenants: an api process forgets what it knows of them once it has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore

log = structlog.get_logger(__name__)

READ_EVERY_S = 0.5


class AccessVersion:
    """Reads the version, twice a second.

    Args:
        forget: called whenever the version is another than before, or was lost with the data.
    """

    def __init__(self, store: JobStore, *forget: Callable[[], None]) -> None:
        self._store, self._forget = store, forget
        self._seen: str | None = None
        self._read_at = float("-inf")

    @property
    def age_s(self) -> float:
        """Seconds since the version was last read."""
        return time.monotonic() - self._read_at

    async def run(self) -> None:
        """Read the version for ever. While Redis is away nothing is forgotten."""
        key = self._store.keys("access")
        while True:
            began = time.monotonic()
            try:
                seen = await self._store.execute(self._store.client.hget(key, "version"))
            except StoreUnavailableError as error:
                log.debug("access_version_unknown", error=str(error))
            else:
                self._read_at = began
                if seen != self._seen:
                    self._seen = seen
                    for forget in self._forget:
                        forget()
            await asyncio.sleep(READ_EVERY_S)
