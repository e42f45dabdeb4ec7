"""The API keys that this process knows, and whether that is still true."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import structlog

from api.access.given import GivenKeys
from api.access.version import READ_EVERY_S
from broker.access import USED_GAP_MS, AccessStore, models_of, scopes_of
from broker.db.calls.access import KeyFound
from broker.db.errors import StoreUnavailableError
from jobs.access import ApiKey, Identity, given_key

log = structlog.get_logger(__name__)

FRESH_S: Final = 2.0
"""How long a process may rely on what it knows after Redis last confirmed it."""

_READ_TIMEOUT_S: Final = 1.0
_ASKS: Final = 3
_MOST: Final = 10_000
_NEVER: Final = float("inf")


class Wrong(Enum):
    """Why a key lets nobody in."""

    KEY = "unknown"
    EXPIRED = "expired"
    CLAIMS = "names no tenant"


Verdict: TypeAlias = Identity | Wrong


@dataclass(slots=True)
class _Known:
    """A key as Redis had it at a version. Times are of this process's monotonic clock."""

    version: int
    identity: Identity
    digest: str
    older: str
    older_until: float
    expires_at: float
    revoked: bool
    noted_at: float


class KnownKeys:
    """Judges keys: by what this process remembers while the version of all keys has not changed, or by asking Redis.

    Args:
        store: where the keys are.
        pepper: under which their secrets are digested.
        given: those of the setting ``api_keys``.
        most: keys that are remembered.

    Attributes:
        taken_over: whether keys of the setting were ever taken over, which may have any form; None: not known yet.
        read: set once Redis has answered.
    """

    def __init__(
        self,
        store: AccessStore,
        pepper: bytes,
        given: GivenKeys,
        clock: Callable[[], float] = time.monotonic,
        most: int = _MOST,
    ) -> None:
        self._store, self._pepper, self._given, self._clock, self._most = store, pepper, given, clock, most
        self._keys: OrderedDict[str, _Known] = OrderedDict()
        self._version: int | None = None
        self._read_at = -_NEVER
        self._used: set[str] = set()
        self.taken_over: bool | None = None
        self.read = asyncio.Event()

    def recall(self, key: ApiKey) -> Verdict | None:
        """Judge a key from memory; None: Redis must be asked."""
        known, now = self._keys.get(key.id), self._clock()
        if known is None or known.version != self._version or now - self._read_at > FRESH_S:
            return None
        self._keys.move_to_end(key.id)
        return self._judge(known, key, now)

    def given(self, text: str) -> ApiKey:
        """Read a key of the setting ``api_keys``, which may have any form."""
        return given_key(text, self._pepper)

    def has_seen(self, key: ApiKey) -> bool:
        """Whether the key was right when this process last knew it."""
        known = self._keys.get(key.id)
        return known is not None and isinstance(self._judge(known, key, self._clock()), Identity)

    async def look_up(self, key: ApiKey) -> Verdict:
        """Ask Redis.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        asked_at, found = await self._find(key.id)
        self._note_version(found.version, asked_at)
        known = self._known(found, key.id, asked_at)
        if known is None:
            self._keys.pop(key.id, None)
            return Wrong.KEY
        self._keys[key.id] = known
        self._keys.move_to_end(key.id)
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)
        return self._judge(known, key, asked_at)

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

    def _known(self, found: KeyFound, key_id: str, now: float) -> _Known | None:
        if found.digest is None:
            return None
        identity = Identity(found.tenant, scopes_of(found.scopes), key_id, models_of(found.models))
        return _Known(
            version=found.version,
            identity=identity,
            digest=found.digest,
            older=found.digest2 or "",
            older_until=now + found.digest2_ms / 1000 if found.digest2 else -_NEVER,
            expires_at=_NEVER if found.expires_ms is None else now + found.expires_ms / 1000,
            revoked=found.revoked,
            noted_at=-_NEVER if found.used_ms is None else now - found.used_ms / 1000,
        )

    def _judge(self, known: _Known, key: ApiKey, now: float) -> Verdict:
        digest = key.digest(self._pepper)
        # Both are compared, whatever the first says: the time tells nothing.
        right = hmac.compare_digest(digest, known.digest)
        older = hmac.compare_digest(digest, known.older)
        if not (right or (older and now < known.older_until)) or known.revoked:
            return Wrong.KEY
        if now >= known.expires_at:
            return Wrong.EXPIRED
        if now - known.noted_at > USED_GAP_MS / 1000:
            known.noted_at = now
            self._used.add(key.id)
        return known.identity
