"""The functions of files: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from broker.db.calls.base import READS, WRITES, Answer, Call


class FileCreated(Answer):
    """What became of a new file.

    Attributes:
        kind: ``created``, ``same`` (its key was used before), ``conflict`` (the key belongs to another) or ``over_quota``.
        id: the file's, or that of the other.
        most: the bytes that its tenant may store, where it would have more.
    """

    kind: str
    id: str
    most: int = 0


class FileCreate(Call[FileCreated]):
    """Record a file whose bytes are in storage, or find it by its idempotency key.

    Attributes:
        key: its object in storage.
        idem: idempotency key, ``digest``: of the upload.
        bounded: refuse it if its tenant would store more than its quota.
    """

    flags = WRITES
    id: str
    tenant: str
    purpose: str
    size: int
    filename: str
    key: str
    digest: str
    idem_ttl_ms: int
    idem: str | None = None
    expires_after_ms: int | None = None
    bounded: bool | None = None


class FileDelete(Call[str]):
    """Delete a file's record, and put its object into the trash, which the sweeper empties.

    Answers ``deleted``, ``gone``, ``busy`` (an unfinished batch reads it), or ``kept`` (it has not expired).

    Attributes:
        owner: the tenant that asks: another's is ``gone``. None: an admin, or the sweeper.
    """

    id: str
    only_if_expired: bool
    owner: str | None = None
    by: str | None = None


class FileOrphans(Call[list[str]]):
    """Put objects that were announced so long ago, and have no record, into the trash. Answers with their keys."""

    age_ms: int
    most: int


class PageOfIds(Call[list[str]]):
    """List ids of files, batches or webhooks by creation, and by id if that is equal.

    Attributes:
        room: ``files``, ``batches`` or ``webhooks``.
        purpose: only files of this purpose.
        after: only those that follow this id.
        made_ms: when ``after`` was created, if it has no record.
        owner: only those of this tenant; None: of every tenant.
    """

    flags = READS
    room: str
    most: int
    newest_first: bool
    made_ms: int
    after: str | None = None
    purpose: str | None = None
    owner: str | None = None
