"""The API keys that this process knows, and whether that is still true."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import structlog

from api.access.given import GivenKeys
from api.access.known_tenants import KnownTenants
from api.access.version import READ_EVERY_S
from broker.access import USED_GAP_MS, AccessStore, models_of, scopes_of
from broker.db.calls.access import KeyFound
from broker.db.errors import StoreUnavailableError
from broker.tenants import to_tenant
from jobs.access import ApiKey, Identity, given_key

log = structlog.get_logger(__name__)

FRESH_S: Final = 2.0
"""How long a process may rely on what it knows after Redis last confirmed it."""

_READ_TIMEOUT_S: Final = 1.0
_ASKS: Final = 3
_USED_GAP_S: Final = USED_GAP_MS / 1000
_MOST: Final = 100_000
_NEVER: Final = float("inf")


class Wrong(Enum):
    """Why a key lets nobody in."""

    KEY = "unknown"
    EXPIRED = "expired"
    CLAIMS = "names no tenant"


Verdict: TypeAlias = Identity | Wrong


@dataclass(slots=True)
class _Known:
    """A right key as Redis had it at a version. Times are of this process's monotonic clock.

    Attributes:
        right_until: when it expires, or the overlap of a rotation ends.
        noted_at: when its last use was noted.
    """

    version: int
    identity: Identity
    right_until: float
    noted_at: float


class KnownKeys:
    """Judges keys: by what this process remembers while the version of all keys has not changed, or by asking Redis.

    A right key is remembered by a digest of its text under a random key of this process. So the memory holds no secret, and
    the time of a look into it says nothing about one.

    Args:
        store: where the keys are.
        pepper: under which their secrets are digested.
        given: those of the setting ``api_keys``.
        tenants: learns the tenant of each key that is looked up.
        most: keys that are remembered, about 650 bytes each.

    Attributes:
        taken_over: whether keys of the setting were ever taken over, which may have any form; None: not known yet.
        read: set once Redis has answered.
    """

    def __init__(
        self,
        store: AccessStore,
        pepper: bytes,
        given: GivenKeys,
        tenants: KnownTenants,
        *,
        clock: Callable[[], float] = time.monotonic,
        most: int = _MOST,
    ) -> None:
        self._store, self._pepper, self._given, self._tenants = store, pepper, given, tenants
        self._clock, self._most = clock, most
        self._names_key = secrets.token_bytes(32)
        self._keys: OrderedDict[bytes, _Known] = OrderedDict()
        self._version: int | None = None
        self._read_at = -_NEVER
        self._used: set[str] = set()
        self.taken_over: bool | None = None
        self.read = asyncio.Event()

    def recall(self, text: str) -> Identity | None:
        """Return whose key this is, from memory; None: Redis must be asked."""
        name = self._name(text)
        known, now = self._keys.get(name), self._clock()
        if known is None or known.version != self._version or now - self._read_at > FRESH_S:
            return None
        if now >= known.right_until:
            return None
        self._keys.move_to_end(name)
        if now - known.noted_at > _USED_GAP_S:
            self._note_use(known, now)
        return known.identity

    def has_seen(self, text: str) -> bool:
        """Whether the key was right when this process last looked it up, and has not expired since."""
        known = self._keys.get(self._name(text))
        return known is not None and self._clock() < known.right_until

    async def look_up(self, text: str) -> Verdict:
        """Judge a key. Redis is asked, unless it has not the form of one.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        key = self._parsed(text)
        if key is None:
            return Wrong.KEY
        name, since = self._name(text), self._tenants.forgotten
        asked_at, found = await self._find(key.id)
        self._note_version(found.version, asked_at)
        known = self._judge(found, key, asked_at)
        if isinstance(known, Wrong):
            self._keys.pop(name, None)
            return known
        self._tenants.learn(to_tenant(found.tenant, found.record or {}), since)
        self._keys[name] = known
        self._keys.move_to_end(name)
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)
        if asked_at - known.noted_at > _USED_GAP_S:
            self._note_use(known, asked_at)
        return known.identity

    def _name(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=16, key=self._names_key).digest()

    def _parsed(self, text: str) -> ApiKey | None:
        """Read a key; None: it has not the form of one, so that no look-up is needed."""
        key = ApiKey.parse(text)
        if key is None and text and self.taken_over is not False:
            return given_key(text, self._pepper)  # those of the setting api_keys have any form
        return key

    async def _find(self, key_id: str) -> tuple[float, KeyFound]:
        """Ask Redis for a key until an answer is fresh: one may be late because this process was held up, not Redis."""
        for _ in range(_ASKS):
            asked_at = self._clock()
            with suppress(TimeoutError):
                async with asyncio.timeout(FRESH_S):
                    return asked_at, await self._store.find(key_id)
        raise StoreUnavailableError("key_find: Redis answered too late")

    async def watch(self) -> None:
        """Follow the version for ever, and note which keys were used."""
        while True:
            try:
                await self._read()
            except (StoreUnavailableError, TimeoutError) as error:
                log.debug("keys_not_read", error=str(error))
            await asyncio.sleep(READ_EVERY_S)

    async def _read(self) -> None:
        asked_at = self._clock()
        async with asyncio.timeout(_READ_TIMEOUT_S):
            version, taken_over = await self._store.version()
            self._note_version(version, asked_at)
            self.taken_over = await self._given.take_over(done=taken_over)
            self.read.set()
            used = set(self._used)
            if used:
                await self._store.used(used)
                self._used -= used

    def _note_version(self, version: int, asked_at: float) -> None:
        """Take the version that Redis had after ``asked_at``, unless a later one is known."""
        if asked_at >= self._read_at:
            self._version, self._read_at = version, asked_at

    def _judge(self, found: KeyFound, key: ApiKey, asked_at: float) -> _Known | Wrong:
        digest = key.digest(self._pepper)
        # Both are compared, whatever the first says: the time tells nothing.
        newer = hmac.compare_digest(digest, found.digest or "")
        older = hmac.compare_digest(digest, found.digest2 or "")
        if not (newer or (older and found.digest2_ms > 0)) or found.revoked:
            return Wrong.KEY
        ends = (found.expires_ms, None if newer else found.digest2_ms)
        left_s = min((ms / 1000 for ms in ends if ms is not None), default=_NEVER)
        if left_s <= 0:
            return Wrong.EXPIRED
        return _Known(
            version=found.version,
            identity=Identity(
                sys.intern(found.tenant), scopes_of(found.scopes), key.id, models_of(found.models)
            ),
            right_until=asked_at + left_s,
            noted_at=-_NEVER if found.used_ms is None else asked_at - found.used_ms / 1000,
        )

    def _note_use(self, known: _Known, now: float) -> None:
        known.noted_at = now
        self._used.add(known.identity.key or "")
