"""What the steps of a batch work with, and how they share the process's interpreter lock with its requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from api.services import batch_store
from api.settings import ApiSettings
from broker.batches import BatchStore
from broker.files import FileStore
from broker.jobs import JobStore
from storage import Storage, open_storage

SLICE_S = 0.002
PAUSE_S = 0.0003


class ChangedError(Exception):
    """The batch is no longer what it was when the step began: read it again."""


class Breath:
    """Has long work pause every two milliseconds, so that the thread with the api's event loop gets its turn."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    async def take(self) -> None:
        """Pause if it is time."""
        if time.monotonic() - self._since > SLICE_S:
            await asyncio.sleep(PAUSE_S)
            self._since = time.monotonic()


@dataclass(slots=True)
class Bulk:
    """The stores of one coordinator (on its own event loop), and its name.

    ``token`` names this coordinator in leases. ``count_accepted`` is told the lane and the tenant of each chunk that is
    queued.
    """

    settings: ApiSettings
    store: JobStore
    batches: BatchStore
    files: FileStore
    token: str
    count_accepted: Callable[[str, str], None]
    _storage: Storage | None = None

    @classmethod
    def make(
        cls,
        settings: ApiSettings,
        store: JobStore,
        token: str,
        count_accepted: Callable[[str, str], None],
        storage: Storage | None = None,
    ) -> Bulk:
        """Make one over a store; ``storage``: one that is open already."""
        batches, files = batch_store(store, settings), FileStore(store)
        return cls(settings, store, batches, files, token, count_accepted, storage)

    @property
    def storage(self) -> Storage:
        """Where files are, opened when first used.

        Raises:
            StorageUnavailableError: its directory cannot be made.
        """
        if self._storage is None:
            self._storage = open_storage(self.settings)
        return self._storage
