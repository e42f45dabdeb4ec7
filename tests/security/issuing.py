"""The keys of the tests, made in Redis as ``penstock keys`` makes them, and what became of some."""

from __future__ import annotations

from collections.abc import Mapping

from broker.access import AccessStore
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.access import ApiKey
from tests.security.identities import BOB, WANTED, Wanted

PEPPER = "pepper-of-the-security-tests"
_KEY = PEPPER.encode()
_HOUR_MS = 3_600_000


async def issue(base: BrokerSettings) -> dict[str, str | None]:
    """Make the keys of ``WANTED``. Further callers have none, or one that nobody issued."""
    store = JobStore(connect(base.redis_url), base)
    access = AccessStore(store)
    try:
        keys: dict[str, str | None] = {name: str(await _make(access, one)) for name, one in WANTED.items()}
        before = ApiKey.new()
        await access.create(before, _KEY, tenant=BOB, scopes=WANTED["bob"].scopes)
        after = ApiKey.new(before.id)
        await access.rotate(after, _KEY, overlap_ms=_HOUR_MS)
        keys |= {"rotated": str(after), "rotated, old": str(before)}
    finally:
        await store.aclose()
    return {**keys, "none": None, "garbage": "sk-garbage", "unknown": str(ApiKey.new())}


async def _make(access: AccessStore, wanted: Wanted) -> ApiKey:
    key, short = ApiKey.new(), wanted.fate == "expired"
    await access.create(
        key, _KEY, tenant=wanted.tenant, scopes=wanted.scopes, expires_in_ms=1 if short else None
    )
    if wanted.fate == "revoked":
        await access.revoke(key.id)
    if wanted.fate == "rotated out":
        await access.rotate(ApiKey.new(key.id), _KEY, overlap_ms=0)
    return key


def secrets_of(keys: Mapping[str, str | None]) -> set[str]:
    """Return what no answer and no log line may hold of some keys: their secrets, and the digests of these."""
    known = [key for text in keys.values() if text and (key := ApiKey.parse(text))]
    return {key.secret for key in known} | {key.digest(_KEY) for key in known}
