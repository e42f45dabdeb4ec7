"""Bodies that are too large for Redis: they lie in the storage that all processes share, and the record has a reference.

An object is announced as a file's is, then written, and the function that stores the reference notes its key with the job
(``ns:objects``). When the record goes, its keys go into the trash of files; an announced object that no job has is an
orphan. So a crash between two steps leaves nothing for good.

Nothing is written by reference unless the storage is shared: the api makes an object of the name that it stores in Redis,
and a process that finds this object has the same storage.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from redis.asyncio import Redis

from broker.db.errors import StoreError
from broker.db.keys import Keys
from broker.sealing import Sealer
from jobs.references import Reference

log = structlog.get_logger(__name__)

_LOOK_S: Final = 60.0
"""How often a process looks whether it still shares the storage."""


class BodyStorage(Protocol):
    """Where large bodies are; see :class:`storage.bodies.StoredBodies`."""

    async def put(self, key: str, body: bytes) -> str | None:
        """Write a body, durably. Return why storage failed; None: it is written."""

    async def get(self, key: str) -> bytes:
        """Read a body. Raises an error of the storage."""

    async def copy(self, source: str, key: str) -> None:
        """Copy a body. Raises an error of the storage."""

    async def has(self, key: str) -> bool | None:
        """Whether there is such an object; None: storage failed."""

    async def delete(self, keys: Sequence[str]) -> bool:
        """Delete bodies. False: storage failed."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A body as a function gets it.

    Attributes:
        blob: the body, sealed if there are keys; or a reference to it.
        keys: of the objects that were written for it.
    """

    blob: bytes
    keys: tuple[str, ...] = ()


EMPTY: Final = Stored(b"")
"""What an empty body becomes."""


class LargeBodies:
    """Stores and opens the bodies of jobs, of any size.

    Args:
        execute: returns the reply to a command, with Redis's errors translated.
        inline_bytes: a body up to this size is stored in Redis.
        storage: None: every body is stored in Redis, and references cannot be read.

    Attributes:
        shared: whether this process has the storage that the api processes have, as far as it knows; None: it has not
            looked, or no api has named its storage. Bodies then stay in Redis.
    """

    def __init__(
        self,
        client: Redis,
        keys: Keys,
        execute: Callable[[Awaitable[Any]], Awaitable[Any]],
        sealer: Sealer,
        inline_bytes: int,
        storage: BodyStorage | None,
    ) -> None:
        self._client, self._keys, self._execute, self._sealer = client, keys, execute, sealer
        self._inline_bytes, self._storage = inline_bytes, storage
        self.shared: bool | None = None if storage is not None else False

    # ---- writing -----------------------------------------------------------------------------------------------

    async def store(
        self, job_id: str, name: str, body: bytes, *, writer: int = 0, here: bool = False
    ) -> Stored:
        """Prepare a body for the field ``name`` of a job. If storage fails, the body goes into Redis.

        Args:
            writer: the attempt that writes it; 0: the submission.
            here: store it in Redis, whatever its size.
        """
        if not body:
            return EMPTY
        if self._storage is None or here or not self.shared or len(body) <= self._inline_bytes:
            return Stored(await self._sealer.seal(job_id, name, body))
        reference = Reference(len(body), writer)
        key = reference.key(job_id, name)
        await self.announce(job_id, key)
        if why := await self._storage.put(key, body):
            log.warning("body_not_stored", key=key, error=why)
            return Stored(await self._sealer.seal(job_id, name, body))
        return Stored(reference.encode(), (key,))

    async def announce(self, owner_id: str, key: str) -> None:
        """Note that an object of a file or a job is about to be stored. One that then gets no record is deleted later."""
        seconds, micros = await self._execute(self._client.time())
        announced = {f"{owner_id} {key}": int(seconds) * 1000 + int(micros) // 1000}
        await self._execute(self._client.zadd(self._keys("files_announced"), announced))

    async def copy(self, job_id: str, source: str, key: str) -> None:
        """Copy an object, for a job of its own.

        Raises:
            Exception: the storage's own error, see :meth:`BodyStorage.get`.
        """
        if self._storage is None:
            raise RuntimeError(f"{source} is in the storage, and this process uses none")
        await self.announce(job_id, key)
        await self._storage.copy(source, key)

    async def drop(self, job_id: str, *stored: Stored) -> None:
        """Delete the objects of bodies that no record has. What fails here is deleted as an orphan later."""
        keys = [key for one in stored for key in one.keys]
        if self._storage is None or not keys or not await self._storage.delete(keys):
            return
        try:
            entries = [f"{job_id} {key}" for key in keys]
            await self._execute(self._client.zrem(self._keys("files_announced"), *entries))
        except StoreError as error:
            log.debug("orphan_not_noted", job_id=job_id, error=str(error))

    # ---- reading -----------------------------------------------------------------------------------------------

    async def open(self, job_id: str, name: str, stored: bytes | None) -> bytes | None:
        """Return a body from what the field ``name`` of its job has; None stays None.

        Raises:
            SealingError: it cannot be decrypted.
            Exception: the storage's own error, see :meth:`BodyStorage.get`.
        """
        reference = Reference.read(stored)
        if reference is None:
            return await self._sealer.open(job_id, name, stored)
        return await self.fetch(job_id, name, reference)

    async def fetch(self, job_id: str, name: str, reference: Reference) -> bytes:
        """Return the body of a reference.

        Raises:
            Exception: the storage's own error, see :meth:`BodyStorage.get`.
        """
        if self._storage is None:
            raise RuntimeError(f"the {name} of {job_id} is in the storage, and this process uses none")
        return await self._storage.get(reference.key(job_id, name))

    # ---- which storage it is -----------------------------------------------------------------------------------

    async def keep_looking(self, every_s: float, *, first: bool = False) -> None:
        """Keep :attr:`shared` true to the facts, for ever.

        Args:
            every_s: between looks, until it is shared.
            first: name the storage if nobody has: an api does, as it reads what workers write.
        """
        while True:
            try:
                await self.look(first=first)
            except StoreError as error:
                log.debug("storage_not_compared", error=str(error))
            await asyncio.sleep(_LOOK_S if self.shared else every_s)

    async def look(self, *, first: bool = False) -> None:
        """Look once whether the storage is shared. While storage fails, what was known holds. ``first``: see above.

        Raises:
            StoreError: Redis is away, or refuses.
        """
        if self._storage is None:
            return
        key = self._keys("storage")
        name = await self._execute(self._client.get(key))
        if name is None and first:
            made = secrets.token_hex(16)
            if (why := await self._storage.put(_object(made), b"\n")) is None:
                await self._execute(self._client.set(key, made, nx=True))
            else:
                log.debug("storage_not_compared", error=why)
            name = await self._execute(self._client.get(key))
            if name is not None and name != made:
                await self._storage.delete([_object(made)])
        if name is None:  # no api has named its storage yet
            self.shared = None
            return
        found = await self._storage.has(_object(name))
        if found is not None:
            if self.shared and not found:
                log.warning("storage_not_shared", object=_object(name))
            self.shared = found


def _object(name: str) -> str:
    return f"shared/{name}"
