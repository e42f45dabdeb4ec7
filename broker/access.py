"""API keys in Redis. Their secrets are nowhere: what is stored is HMAC-SHA256 under a pepper that Redis does not have."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import msgspec

from broker.db.calls.access import (
    GivenKey,
    KeyCreate,
    KeyFind,
    KeyFound,
    KeyRevoke,
    KeyRotate,
    KeysPage,
    KeysTakeOver,
    KeysUsed,
    TakenOver,
)
from broker.db.errors import KeyInactiveError
from broker.jobs import StorePart
from jobs.access import TENANT_SCOPES, Actor, ApiKey, Scope, encoded, given_key

USED_GAP_MS = 300_000
"""The last use of a key is known to within this."""

TAKEN_OVER_SCOPES = TENANT_SCOPES | {Scope.METRICS}
"""The scopes of a key of the setting ``api_keys``: all but ``admin``."""

_FIELDS = ("tenant", "scopes", "models", "name", "created", "expires", "used", "state", "until2")


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key, as administrators see it.

    Attributes:
        models: the models that it may use; None: every one of its tenant.
        used_ms: when it was last used, to five minutes; None: never.
        overlap_ms: until when the secret before the last rotation is right; None: it is not.
        revoked: it was revoked, for good.
    """

    id: str
    tenant: str
    scopes: frozenset[Scope]
    models: frozenset[str] | None
    name: str
    created_ms: int
    expires_ms: int | None
    used_ms: int | None
    overlap_ms: int | None
    revoked: bool


class AccessStore(StorePart):
    """API keys."""

    async def create(
        self,
        key: ApiKey,
        pepper: bytes,
        *,
        tenant: str,
        scopes: Collection[Scope],
        name: str = "",
        models: Collection[str] | None = None,
        expires_in_ms: int | None = None,
        by: Actor | None = None,
    ) -> KeyRecord:
        """Record a key.

        Raises:
            ValueError: another key has its id.
        """
        call = KeyCreate(
            id=key.id,
            digest=key.digest(pepper),
            tenant=tenant,
            scopes=" ".join(sorted(scopes)),
            name=name,
            models=None if models is None else msgspec.json.encode(sorted(models)).decode(),
            expires_in_ms=expires_in_ms,
            by=encoded(by),
        )
        if not await self._call(call):
            raise ValueError(f"there is a key {key.id} already")
        return await self._there(key.id)

    async def rotate(
        self, key: ApiKey, pepper: bytes, *, overlap_ms: int, by: Actor | None = None
    ) -> KeyRecord:
        """Give a key the secret of ``key``. The one until now stays right for ``overlap_ms``; an older one goes at once.

        Raises:
            LookupError: there is no such key.
            KeyInactiveError: it was revoked, or has expired.
        """
        answer = await self._call(KeyRotate(key.id, key.digest(pepper), overlap_ms, encoded(by)))
        if answer == "gone":
            raise LookupError(key.id)
        if answer == "inactive":
            raise KeyInactiveError(key.id)
        return await self._there(key.id)

    async def revoke(self, key_id: str, by: Actor | None = None) -> bool:
        """Revoke a key, for good. False: there is no such key."""
        return await self._call(KeyRevoke(key_id, encoded(by)))

    async def get(self, key_id: str) -> KeyRecord | None:
        """Read a key's record; None: there is none."""
        return _record(
            key_id, await self._execute(self._client.hmget(self._keys("key", key_id), list(_FIELDS)))
        )

    async def names(self, ids: Collection[str]) -> dict[str, str]:
        """Return the names of those keys that are there and have one, by id."""
        pipe = self._client.pipeline(transaction=False)
        for key_id in ids:
            pipe.hget(self._keys("key", key_id), "name")
        names = await self._execute(pipe.execute()) if ids else []
        return {key_id: name for key_id, name in zip(ids, names, strict=True) if name}

    async def page(
        self, *, tenant: str | None, after: str | None, limit: int
    ) -> tuple[list[KeyRecord], bool]:
        """List keys, newest first, of one tenant or all; return them, and whether more follow.

        Raises:
            LookupError: ``after`` is no key of this list.
        """
        ids = await self._call(KeysPage(limit + 1, tenant, after))
        if ids is None:
            raise LookupError(after)
        pipe = self._client.pipeline(transaction=False)
        for key_id in ids[:limit]:
            pipe.hmget(self._keys("key", key_id), list(_FIELDS))
        rows = await self._execute(pipe.execute()) if ids else []
        found = (_record(*row) for row in zip(ids, rows, strict=False))
        return [record for record in found if record], len(ids) > limit

    # ---- for who judges keys -----------------------------------------------------------------------------------

    async def find(self, key_id: str) -> KeyFound:
        """Return what it takes to judge a key, and its tenant's record."""
        return await self._call(KeyFind(key_id))

    async def version(self) -> tuple[int, bool]:
        """Return the version of all keys and tenants, which every change raises, and whether keys were taken over."""
        version, taken_over = await self._execute(
            self._client.hmget(self._keys("access"), ["version", "imported"])
        )
        return int(version or 0), taken_over is not None

    async def used(self, ids: Collection[str]) -> None:
        """Note that keys were used."""
        await self._call(KeysUsed(sorted(ids), USED_GAP_MS))

    async def take_over(self, keys: Mapping[str, str], pepper: bytes) -> TakenOver:
        """Make records of the keys of the setting ``api_keys``, if that was never done. ``keys``: by tenant."""
        given = ((given_key(text, pepper), tenant) for tenant, text in keys.items())
        rows = [GivenKey(key.id, key.digest(pepper), tenant) for key, tenant in given]
        return await self._call(KeysTakeOver(rows, " ".join(sorted(TAKEN_OVER_SCOPES))))

    async def user_key(self, proposed: bytes) -> bytes:
        """Return the random key under which end users are digested. Without one, ``proposed`` is stored and returned."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hsetnx(self._keys("access"), "user_key", proposed.hex())
        pipe.hget(self._keys("access"), "user_key")
        return bytes.fromhex((await self._execute(pipe.execute()))[1])

    async def _there(self, key_id: str) -> KeyRecord:
        record = await self.get(key_id)
        if record is None:
            raise LookupError(key_id)
        return record


@cache
def scopes_of(text: str) -> frozenset[Scope]:
    """Read scopes as they are stored; those of a newer version are left out."""
    return frozenset(Scope(word) for word in text.split() if word in set(Scope))


def models_of(text: str | None) -> frozenset[str] | None:
    """Read models as they are stored."""
    return None if text is None else frozenset(msgspec.json.decode(text, type=list[str]))


def _record(key_id: str, values: Sequence[str | None]) -> KeyRecord | None:
    tenant, scopes, models, name, created, expires, used, state, until2 = values
    if tenant is None or state is None:
        return None
    return KeyRecord(
        id=key_id,
        tenant=tenant,
        scopes=scopes_of(scopes or ""),
        models=models_of(models),
        name=name or "",
        created_ms=int(created or 0),
        expires_ms=int(expires) if expires else None,
        used_ms=int(used) if used else None,
        overlap_ms=int(until2) if until2 else None,
        revoked=state != "active",
    )
