"""The functions of API keys: see :mod:`broker.db.calls.base`. No secret is in a call, only its digest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.db.calls.base import READS, WRITES, Answer, Call


class KeyCreate(Call[bool]):
    """Record a key. Answers False if another key has its id.

    Attributes:
        scopes: with spaces between them.
        models: a list as JSON; None: every model of the tenant.
        by: who does it, for the audit stream.
    """

    flags = WRITES
    id: str
    digest: str
    tenant: str
    scopes: str
    name: str
    models: str | None = None
    expires_in_ms: int | None = None
    by: str | None = None


class KeyRotate(Call[str]):
    """Give a key a second secret. Answers ``rotated``, ``gone`` or ``inactive`` (it is revoked, or has expired).

    Attributes:
        overlap_ms: how long the secret until now stays right.
    """

    id: str
    digest: str
    overlap_ms: int
    by: str | None = None


class KeyRevoke(Call[bool]):
    """Revoke a key, for good. Answers whether there is such a key."""

    id: str
    by: str | None = None


class KeyFound(Answer):
    """A key, as who judges it needs it. Only the version is there for an id that no key has.

    Attributes:
        version: of all keys and tenants.
        digest2: the older secret's, ``digest2_ms``: how long it is still right.
        scopes, models: as of :class:`KeyCreate`.
        expires_ms: until it expires; None: never.
        used_ms: since its last noted use.
        record: of its tenant, as it is stored; None: it has none.
    """

    version: int
    digest: str | None = None
    digest2: str | None = None
    digest2_ms: int = 0
    tenant: str = ""
    scopes: str = ""
    models: str | None = None
    expires_ms: int | None = None
    used_ms: int | None = None
    revoked: bool = False
    record: Mapping[str, str] | None = None


class KeyFind(Call[KeyFound]):
    """Find a key by its id, and its tenant with it."""

    flags = READS
    id: str


class KeysUsed(Call[bool]):
    """Note that keys were used, unless that was noted within ``gap_ms``."""

    ids: Sequence[str]
    gap_ms: int


class KeysPage(Call[Sequence[str] | None]):
    """List ids of keys, newest first, those of one tenant or all. Answers None if ``after`` is not in the list."""

    flags = READS
    most: int
    tenant: str | None = None
    after: str | None = None


class GivenKey(Answer):
    """A key of the setting ``api_keys``."""

    id: str
    digest: str
    tenant: str


class TakenOver(Answer):
    """What became of keys from the settings.

    Attributes:
        first: they were taken over now.
        strange: ids of those that are not in Redis, because they were set later.
        missing: ids of active ones that were taken over and are no longer set.
    """

    first: bool
    strange: Sequence[str]
    missing: Sequence[str]


class KeysTakeOver(Call[TakenOver]):
    """Take the keys of the settings over, once for all times."""

    flags = WRITES
    keys: Sequence[GivenKey]
    scopes: str
