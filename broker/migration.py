"""Takes over what an earlier version left in Redis: once, at the first start of this one.

Version 2 kept a job's facts in fields of their own, found its messages in lists, and had other indexes. Its records are
rewritten here, and its queued jobs queued again in the order of their creation; jobs that ran when its workers ended are
lost with these, as always. Nothing else changes: files, batches, idempotency keys and deadlines have the same form.

Processes of two versions must not work on one server at a time. So this refuses while one of the earlier version lives, and
leaves two keys of another type behind, on which the earlier version's functions fail before they write.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import structlog
from redis.exceptions import NoPermissionError

from broker.acceptance import BYTES_PER_TOKEN
from broker.db.calls.jobs import Adopt
from broker.db.errors import MixedFleetStartError, StoreFaultError, StoreUnavailableError
from broker.jobs import JobStore
from broker.records import Facts, encode_facts
from jobs.model import SCHEMA_VERSION

log = structlog.get_logger(__name__)

_PAGE = 500
_LOCK_MS = 60_000
_WAIT_S = 300.0
_UNKNOWN_TOKENS = 128  # as in broker/lua/4_accept.lua
BARRED: Final = ("workers", "paused")
"""Keys that the earlier version reads before it registers a worker and before it writes a job."""

_MOVED: Final = ("id", "v", "endpoint", "model", "meta", "max", "timeout", "qtimeout", "trace", "retry_of")
"""Fields of a record that are gone, as its facts have them."""

_OLD_KEYS: Final = (
    *(
        "jobs:state:*",
        "jobs:model:*",
        "queued:*",
        "window:*",
        "backlog:*",
        "turns:*",
        "fair:*",
        "missing:*",
        "parked:*",
    ),
    *(
        "waiting:*",
        "admitted:*",
        "admitted_bulk:*",
        "queues",
        "rate:*",
        "affinity:*",
        "envelope",
        "retire",
        "worker:*:cancels",
    ),
)


async def prepare(store: JobStore) -> None:
    """Make the server's data this version's. Every process calls this first; it reads one key where nothing is to do.

    Raises:
        MixedFleetStartError: a process of an earlier version lives, a newer version wrote the data, or this user of Redis
            has no right to do it.
        StoreUnavailableError: Redis cannot be reached, or another process takes too long with this.
    """
    with _told_of_rights():
        await _prepare(store)


async def _prepare(store: JobStore) -> None:
    give_up_at = time.monotonic() + _WAIT_S
    while not await _is_current(store):
        if not await _is_old(store):
            await store.execute(store.client.set(store.keys("schema"), SCHEMA_VERSION, nx=True))
            await _bar(store)
        elif (token := await _lock(store)) is not None:
            await _take_over(store, token)
        elif time.monotonic() > give_up_at:
            raise StoreUnavailableError(
                "another process has been taking over the data of an earlier version for too long"
            )
        else:
            await asyncio.sleep(0.2)


async def check(store: JobStore) -> None:
    """Return if this version may work on the server, as :func:`prepare` does, but take over nothing.

    Raises:
        MixedFleetStartError: as there.
    """
    with _told_of_rights():
        if not await _is_current(store) and await _is_old(store):
            await _check_fleet(store)


@contextmanager
def _told_of_rights() -> Iterator[None]:
    """Say what to do where a user of Redis lacks rights: it has an earlier version's, or takes over data."""
    try:
        yield
    except StoreFaultError as error:
        if not isinstance(error.__cause__, NoPermissionError):
            raise
        raise MixedFleetStartError(
            f"{error}. Give Redis this version's users.acl; data of an earlier version can be taken over by a process that"
            " connects as admin only: docs/operate/operations.md"
        ) from error


async def _is_current(store: JobStore) -> bool:
    found = await store.execute(store.client.get(store.keys("schema")))
    if found is not None and int(found) > SCHEMA_VERSION:
        message = (
            f"the data in Redis has version {found}; this version of Penstock knows up to {SCHEMA_VERSION}"
        )
        raise MixedFleetStartError(message)
    return found is not None


async def _is_old(store: JobStore) -> bool:
    ns = store.keys.namespace
    signs = [
        f"{ns}:envelope",
        f"{ns}:queues",
        f"{ns}:retire",
        *(f"{ns}:jobs:state:{state}" for state in ("queued", "running")),
    ]
    return bool(await store.execute(store.client.exists(*signs)))


async def _lock(store: JobStore) -> str | None:
    token = secrets.token_hex(8)
    key = f"{store.keys('schema')}:lock"
    return token if await store.execute(store.client.set(key, token, nx=True, px=_LOCK_MS)) else None


async def _take_over(store: JobStore, token: str) -> None:
    key = f"{store.keys('schema')}:lock"
    holder = asyncio.create_task(_hold(store, key, token))
    try:
        if await _is_current(store):  # another process was done just before
            return
        await _check_fleet(store)
        log.info("migration_begun", version=SCHEMA_VERSION)
        await _bar(store)
        await _drop(store, ":pool:*", ":ended:*")  # of a take-over that was cut short
        done: set[str] = set()
        async for ids in _pages(store):
            if holder.done():
                raise StoreUnavailableError(
                    "the lock of the take-over was lost: Redis or this process was away"
                )
            fresh = [job_id for job_id in dict.fromkeys(ids) if job_id not in done]
            await _rewrite(store, fresh)
            await asyncio.gather(*(store.functions.call(Adopt(id=job_id)) for job_id in fresh))
            done.update(fresh)
        await _finish(store)
        log.info("migration_done", version=SCHEMA_VERSION, jobs=len(done))
    finally:
        holder.cancel()
        await asyncio.gather(holder, return_exceptions=True)
        if await _holds(store, key, token):
            await store.execute(store.client.delete(key))


async def _hold(store: JobStore, key: str, token: str) -> None:
    """Prolong the lock, however long a big server takes, until it is another's."""
    while await _holds(store, key, token):
        await store.execute(store.client.set(key, token, px=_LOCK_MS))
        await asyncio.sleep(_LOCK_MS / 4000)


async def _holds(store: JobStore, key: str, token: str) -> bool:
    return bool(await store.execute(store.client.get(key)) == token)


async def _check_fleet(store: JobStore) -> None:
    """Wait for leases of processes that have died, and refuse if one lives."""
    ns = store.keys.namespace
    first_ends: dict[tuple[str, str], float] = {}
    while True:
        now_ms = await store.now_ms()
        leases: dict[tuple[str, str], float] = {}
        for kind in ("workers", "coordinators"):
            if await store.execute(store.client.type(f"{ns}:{kind}")) == "zset":
                rows = await store.execute(
                    store.client.zrangebyscore(f"{ns}:{kind}", f"({now_ms}", "+inf", withscores=True)
                )
                leases |= {(kind.removesuffix("s"), name): end for name, end in rows}
        first_ends = leases | first_ends
        apis = await store.execute(store.client.pubsub_channels(f"{ns}:api:*"))
        alive = [who for who, end in leases.items() if end > first_ends[who]] + [
            ("api", name) for name in apis
        ]
        if alive:
            kinds = ", ".join(sorted({kind for kind, _ in alive}))
            raise MixedFleetStartError(
                f"processes of an earlier version of Penstock work on this Redis ({kinds}: {len(alive)}). Stop them, then"
                " start again: accepted jobs are kept, and this version takes them over"
            )
        if not leases:
            return
        await asyncio.sleep(0.5)


async def _bar(store: JobStore) -> None:
    """Put keys of another type where the earlier version looks before it writes."""
    pipe = store.client.pipeline(transaction=True)
    text = f"a newer version of Penstock keeps its data here (version {SCHEMA_VERSION})"
    paused = []
    if await store.execute(store.client.type(f"{store.keys.namespace}:paused")) == "set":
        paused = await store.execute(store.client.smembers(f"{store.keys.namespace}:paused"))
    for pool in paused:
        pipe.rpush(f"{store.keys('schema')}:paused", pool)
    for name in BARRED:
        pipe.set(f"{store.keys.namespace}:{name}", text)
    await store.execute(pipe.execute())


async def _pages(store: JobStore) -> AsyncIterator[list[str]]:
    """Yield the ids of the queued jobs in the order of their lanes, and then of all jobs by their creation."""
    ns = store.keys.namespace
    for queue in await store.execute(store.client.smembers(f"{ns}:queues")):
        backlogs = [key async for key in store.client.scan_iter(f"{ns}:backlog:{queue}:*", count=1000)]
        for index in (f"{ns}:window:{queue}", *backlogs):
            async for ids in _walk(store, index):
                yield ids
    async for ids in _walk(store, store.keys("jobs")):
        yield ids


async def _walk(store: JobStore, index: str) -> AsyncIterator[list[str]]:
    first = 0
    while ids := await store.execute(store.client.zrange(index, first, first + _PAGE - 1)):
        yield ids
        first += _PAGE


async def _rewrite(store: JobStore, ids: list[str]) -> None:
    """Rewrite the records among these that have the earlier form: those with a field ``id``."""
    names = (*_MOVED, "affinity", "attempt", "stream")
    pipe = store.client.pipeline(transaction=False)
    for job_id in ids:
        pipe.hmget(store.keys("job", job_id), names)
        pipe.hstrlen(store.keys("job", job_id), "req")
    replies = await store.execute(pipe.execute())
    pipe = store.client.pipeline(transaction=False)
    for job_id, values, length in zip(ids, replies[::2], replies[1::2], strict=True):
        old = dict(zip(names, values, strict=True))
        if old["id"] is not None:
            cost = length // BYTES_PER_TOKEN + _UNKNOWN_TOKENS
            pipe.hset(store.keys("job", job_id), mapping={"facts": encode_facts(_facts(old)), "cost": cost})
            empty = [name for name in ("attempt", "stream") if old[name] == "0"]
            pipe.hdel(store.keys("job", job_id), *_MOVED, *empty)
    await store.execute(pipe.execute())


def _facts(old: Mapping[str, Any]) -> Facts:
    return Facts(
        endpoint=old["endpoint"],
        model=old["model"],
        max_attempts=int(old["max"]),
        metadata=json.loads(old["meta"] or "{}"),
        timeout_ms=old["timeout"] and int(old["timeout"]),
        queue_timeout_ms=old["qtimeout"] and int(old["qtimeout"]),
        retry_of=old["retry_of"],
        trace=old["trace"],
        affinity=old["affinity"],
    )


async def _finish(store: JobStore) -> None:
    ns = store.keys.namespace
    paused = f"{store.keys('schema')}:paused"
    pools = await store.execute(store.client.lrange(paused, 0, -1))
    for pool in pools:
        await store.pause(pool, paused=True)
    if await store.execute(store.client.exists(f"{ns}:ended")):
        await store.execute(store.client.rename(f"{ns}:ended", store.keys("uncounted")))
    await _drop(
        store, *(f":{pattern}" for pattern in _OLD_KEYS), ".*"
    )  # the last: the lists that held messages
    pipe = store.client.pipeline(transaction=True)
    pipe.delete(paused)
    pipe.set(store.keys("schema"), SCHEMA_VERSION)
    await store.execute(pipe.execute())


async def _drop(store: JobStore, *patterns: str) -> None:
    for pattern in patterns:
        async for key in store.client.scan_iter(f"{store.keys.namespace}{pattern}", count=1000):
            await store.execute(store.client.unlink(key))
