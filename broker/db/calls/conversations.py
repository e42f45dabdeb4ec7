"""The functions of conversations: see :mod:`broker.db.calls.base`.

``keep_ms``: how long its tenant's objects are kept; None: ``retention_ms``. ``owner``: the tenant that asks: another's does
not exist for it. None: an admin, or a process of ours.
"""

from __future__ import annotations

from broker.db.calls.base import WRITES, Call


class ConversationCreate(Call[int]):
    """Create a conversation. Blob: its first items, if it has some. Answers with when it was created."""

    flags = WRITES
    id: str
    tenant: str
    metadata: str
    retention_ms: int
    keep_ms: int | None = None


class ConversationChange(Call[str]):
    """Change a conversation. Blob: items that are added.

    Answers ``done``, ``gone``, or ``full``: too many calls have added items, or too many bytes.

    Attributes:
        metadata: JSON, in place of the old.
        drop: id of an item that it has no longer.
        most_bytes: of all items that were added since its last response.
        nonce: drawn for this call, so that it changes nothing when the client library sends it again.
    """

    flags = WRITES
    id: str
    retention_ms: int
    most_bytes: int
    nonce: str
    keep_ms: int | None = None
    metadata: str | None = None
    drop: str | None = None
    owner: str | None = None


class ConversationFold(Call[str]):
    """Put all of a conversation's items into its own record. Blob: these items.

    Answers ``done``, ``gone``, ``moved``: it has changed since it was read, or ``busy``: a job continues it now.

    Attributes:
        turn: as it was read. ``parts``: the same.
    """

    flags = WRITES
    id: str
    turn: int
    parts: int
    owner: str | None = None


class ConversationDelete(Call[bool]):
    """Delete a conversation. False: there is no such one."""

    id: str
    owner: str | None = None
    by: str | None = None
