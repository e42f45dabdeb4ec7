"""Large bodies of jobs as objects; see :mod:`broker.large_bodies`, which decides which bodies these are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from storage.base import MissingObjectError, Storage, StorageError, read_all


class StoredBodies:
    """Writes and reads bodies.

    Args:
        storage: opens the storage, at the first use of it.
    """

    def __init__(self, storage: Callable[[], Storage]) -> None:
        self._storage = storage

    async def put(self, key: str, body: bytes) -> str | None:
        """Write a body, durably. Return why storage failed; None: it is written."""
        try:
            await self._storage().put(key, body)
        except StorageError as error:
            return str(error)
        return None

    async def get(self, key: str) -> bytes:
        """Read a body.

        Raises:
            StorageError: storage failed, there is no such object, or it cannot be decrypted.
        """
        return await read_all(self._storage(), key)

    async def copy(self, source: str, key: str) -> None:
        """Copy an object.

        Raises:
            StorageError: as of :meth:`get`.
        """
        storage = self._storage()
        await storage.put(key, await read_all(storage, source))

    async def has(self, key: str) -> bool | None:
        """Whether there is such an object; None: storage failed."""
        try:
            await self._storage().size(key)
        except MissingObjectError:
            return False
        except StorageError:
            return None
        return True

    async def delete(self, keys: Sequence[str]) -> bool:
        """Delete bodies. False: storage failed."""
        try:
            await self._storage().delete(keys)
        except StorageError:
            return False
        return True
