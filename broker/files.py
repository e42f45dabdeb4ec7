"""Files' records in Redis; the bytes are in :mod:`storage`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from broker.db.calls.files import FileCreate, FileDelete, FileOrphans, PageOfIds
from broker.db.errors import FileGoneError, FileInUseError, IdempotencyConflictError, OverQuotaError
from broker.jobs import JobStore, StorePart
from jobs.access import DEFAULT_TENANT, Actor, encoded, owns
from jobs.batch_model import Batch, File
from jobs.ids import made_ms

_FIELDS = ("id", "bytes", "filename", "purpose", "key", "created", "expires", "tenant")


class FileRole(StrEnum):
    """What a file is to a batch."""

    INPUT = "input"
    OUTPUT = "output"
    ERROR = "error"


class FileStore(StorePart):
    """Files' records. ``owner``: the tenant that asks: another's file does not exist for it. None: an admin or a process."""

    async def announce(self, file_id: str, key: str) -> None:
        """Note that a file's object is about to be stored. An object that then gets no record is deleted later."""
        await self._store.large.announce(file_id, key)

    async def orphans(self, age_s: float, limit: int = 100) -> list[str]:
        """Put objects that were announced ``age_s`` ago, but not recorded, into the trash; return their keys."""
        return await self._call(FileOrphans(int(age_s * 1000), limit))

    async def create(
        self,
        file: File,
        *,
        expires_after_ms: int | None,
        idempotency_key: str | None = None,
        digest: str = "",
        bounded: bool = False,
    ) -> tuple[File, bool]:
        """Record a file whose object is in storage. The times in ``file`` are ignored.

        Args:
            bounded: it counts against its tenant's quota, and is refused beyond it; else it only counts.

        Returns:
            The file, and whether it is an earlier one with this key; then the new object has no owner.

        Raises:
            IdempotencyConflictError: the key belongs to another file.
            OverQuotaError: its tenant would store more than it may.
        """
        call = FileCreate(
            id=file.id,
            tenant=file.tenant,
            purpose=file.purpose,
            size=file.size,
            filename=file.filename,
            key=file.key,
            digest=digest,
            idem_ttl_ms=self._store.retention_ms,
            idem=idempotency_key,
            expires_after_ms=expires_after_ms,
            bounded=bounded or None,
        )
        created = await self._call(call)
        if created.kind == "over_quota":
            raise OverQuotaError("storage", created.most, file.size)
        if created.kind == "conflict":
            raise IdempotencyConflictError(created.id)
        found = await self.get(created.id)
        if found is None:
            raise LookupError(created.id)
        return found, created.kind == "same"

    async def has_key(self, tenant: str, idempotency_key: str) -> bool:
        """Whether a tenant made a file with this idempotency key lately."""
        key = self._keys("idem", "files", tenant, idempotency_key)
        return bool(await self._execute(self._client.exists(key)))

    async def get(self, file_id: str, *, owner: str | None = None) -> File | None:
        """Read a file's record; None: there is none."""
        file = _file(await self._execute(self._client.hmget(self._keys("file", file_id), _FIELDS)))
        return file if file is not None and owns(owner, file.tenant) else None

    async def of_batch(self, batch: Batch, *roles: FileRole) -> dict[FileRole, File]:
        """Return a batch's files of these roles, without those that it never had.

        Raises:
            FileGoneError: one was deleted or has expired.
        """
        ids = {
            FileRole.INPUT: batch.input_file_id,
            FileRole.OUTPUT: batch.output_file_id,
            FileRole.ERROR: batch.error_file_id,
        }
        found: dict[FileRole, File] = {}
        for role in roles:
            ident = ids[role]
            if ident is None:
                continue
            file = await self.get(ident)
            if file is None:
                raise FileGoneError(f"the {role} file of {batch.id}, {ident}, was deleted or has expired")
            found[role] = file
        return found

    async def delete(
        self,
        file_id: str,
        *,
        only_if_expired: bool = False,
        owner: str | None = None,
        by: Actor | None = None,
    ) -> bool:
        """Delete a file's record and mark its object for deletion. False: there is no such file, or it has not expired.

        Raises:
            FileInUseError: a batch that has not ended reads it.
        """
        reply = await self._call(FileDelete(file_id, only_if_expired, owner, encoded(by)))
        if reply == "busy":
            raise FileInUseError(file_id)
        return reply == "deleted"

    async def page(
        self,
        *,
        after: str | None,
        limit: int,
        newest_first: bool,
        purpose: str | None = None,
        owner: str | None = None,
    ) -> tuple[list[File], bool]:
        """List files by creation; return them, and whether more follow.

        Args:
            after: a file's id; list those that follow it. It may have been deleted within the last hour.
        """
        ids, more = await page_of_ids(
            self._store, "files", after, limit, newest_first=newest_first, purpose=purpose, owner=owner
        )
        pipe = self._client.pipeline(transaction=False)
        for file_id in ids:
            pipe.hmget(self._keys("file", file_id), _FIELDS)
        rows = await self._execute(pipe.execute()) if ids else []
        return [file for values in rows if (file := _file(values))], more

    async def expired(self, limit: int = 100) -> list[str]:
        """Return ids of expired files."""
        now = await self._store.now_ms()
        key = self._keys("files_expiry")
        return list(await self._execute(self._client.zrangebyscore(key, 0, now, 0, limit)))

    async def trash(self, limit: int = 100) -> list[str]:
        """Return keys of objects to delete."""
        key = self._keys("files_trash")
        return list(await self._execute(self._client.srandmember(key, limit)))

    async def discard(self, keys: Sequence[str]) -> None:
        """Put objects without a file into the trash."""
        if keys:
            await self._execute(self._client.sadd(self._keys("files_trash"), *keys))

    async def emptied(self, keys: Sequence[str]) -> None:
        """Note that objects have been deleted from storage."""
        if keys:
            await self._execute(self._client.srem(self._keys("files_trash"), *keys))


async def page_of_ids(
    store: JobStore,
    room: str,
    after: str | None,
    limit: int,
    *,
    newest_first: bool,
    purpose: str | None = None,
    owner: str | None = None,
) -> tuple[list[str], bool]:
    """Return ids of ``files``, ``batches`` or ``webhooks`` by creation, and whether more follow."""
    call = PageOfIds(
        room=room,
        most=limit + 1,
        newest_first=newest_first,
        made_ms=0 if after is None else made_ms(after),
        after=after,
        purpose=purpose,
        owner=owner,
    )
    ids = await store.functions.call(call)
    return ids[:limit], len(ids) > limit


def _file(values: Sequence[str | None]) -> File | None:
    ident, size, filename, purpose, key, created, expires, tenant = values
    if ident is None or purpose is None or key is None or filename is None:
        return None
    return File(
        ident,
        int(size or 0),
        filename,
        purpose,
        key,
        int(created or 0),
        int(expires) if expires else None,
        tenant or DEFAULT_TENANT,
    )
