"""Usage: counted by the script that ends a job or commits rows, once, in bounded space, and folded when it is old."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from typing import Any

import pytest

from broker.claims import Claim
from broker.db.calls.attempts import Finish
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.usage import Row, Tally, UsageStore
from jobs.failures import FailureCode
from jobs.model import JobError, Usage
from jobs.states import JobEvent, JobState
from tests.integration.test_fair_queue import W, alive, limited, spec, take
from tests.support import eventually

pytestmark = pytest.mark.asyncio


async def today(store: JobStore) -> date:
    return datetime.fromtimestamp(await store.now_ms() / 1000, UTC).date()


async def rows(store: JobStore, days: int = 1, tenant: str | None = None) -> list[Row]:
    last = await today(store)
    return [row async for row in UsageStore(store).rows(last - timedelta(days=days), last, tenant)]


async def tallies(store: JobStore) -> dict[tuple[str, str, str], Tally]:
    sums: dict[tuple[str, str, str], Tally] = {}
    for row in await rows(store):
        place = row.tenant, row.key, row.model
        sums[place] = sums.get(place, Tally()) + row.tally
    return sums


async def running(store: JobStore, **changes: Any) -> Claim:
    await store.accept(spec(**changes))
    claim = await take(store)
    assert claim is not None
    return claim


async def test_an_end_is_counted_once_to_its_tenant_key_and_model(store: JobStore) -> None:
    await alive(store)
    for key, device_us in (("k1", 500), ("k1", 700), ("k2", None), (None, None)):
        claim = await running(store, tenant="alice", key=key)
        used = Usage(10, 4, 14, cached_tokens=3)
        for _ in range(2):  # the client library sends it twice
            assert await store.finish(claim, W, JobState.SUCCEEDED, usage=used, device_us=device_us)
    assert await tallies(store) == {
        ("alice", "k1", "m"): Tally(2, 0, 20, 6, 8, 1200, 0),
        ("alice", "k2", "m"): Tally(1, 0, 10, 3, 4, 0, 0),
        ("alice", "-", "m"): Tally(1, 0, 10, 3, 4, 0, 0),
    }
    assert await rows(store, tenant="bob") == []
    assert len(await rows(store, tenant="alice")) == 3


async def test_every_way_to_end_is_one_request(store: JobStore, broker_settings: BrokerSettings) -> None:
    await alive(store)
    error = JobError(FailureCode.ENGINE_ERROR, "no")
    claim = await running(store)
    await store.finish(claim, W, JobState.FAILED, error=error, usage=Usage(5, 0, 5))
    claim = await running(store, max_attempts=1)
    assert await store.retry_later(claim, W, error, 0.0, status=500, device_us=9) is JobState.FAILED
    claim = await running(store)
    await store.cancel(claim.id)
    await store.finish(claim, W, JobState.CANCELLED, usage=Usage(5, 2, 7))
    queued = await store.accept(spec())
    await store.cancel(queued.id)
    brief = await store.accept(spec(expires_in_ms=1))

    async def expired() -> bool:
        await store.reap()
        job = await store.get(brief.id)
        return job is not None and job.state is JobState.EXPIRED

    await eventually(expired)
    claim = await running(store)  # lost with its worker
    await store.bury(W)
    for _ in range(2):
        await store.reap()
    assert await tallies(store) == {("a", "-", "m"): Tally(5, 3, 10, 0, 2, 9, 0)}
    await alive(store)
    claim = await take(store)
    await store.finish(claim, W, JobState.SUCCEEDED, usage=Usage(1, 1, 2))
    assert await tallies(store) == {("a", "-", "m"): Tally(6, 3, 11, 0, 3, 9, 0)}


async def test_a_follower_is_a_request_without_tokens(store: JobStore) -> None:
    await alive(store)
    leader = spec(coalesce="same")
    await store.accept(leader)
    followers = [spec(coalesce="same") for _ in range(3)]
    for follower in followers:
        await store.accept(follower)
    claim = await take(store)
    await store.finish(claim, W, JobState.SUCCEEDED, usage=Usage(10, 4, 14))
    assert (await store.get(followers[0].id)).state is JobState.SUCCEEDED
    assert await tallies(store) == {("a", "-", "m"): Tally(4, 0, 10, 0, 4, 0, 0)}


async def test_a_day_is_bounded_and_loses_nothing(store: JobStore, broker_settings: BrokerSettings) -> None:
    few = await limited(store, broker_settings, usage_rows_max=20)
    await alive(few)
    for i in range(100):
        claim = await running(few, key=f"k{i}", model=f"m{i % 50}")
        await few.finish(claim, W, JobState.SUCCEEDED, usage=Usage(2, 1, 3))
    claim = await running(few, key="k0", model="m0")
    await few.finish(claim, W, JobState.SUCCEEDED, usage=Usage(2, 1, 3))
    found = await tallies(few)
    assert sum(found.values(), Tally()) == Tally(101, 0, 202, 0, 101, 0, 0)
    assert len(found) <= 20 * 1.25 + 1
    assert found["a", "k0", "m0"].requests == 2
    assert found["a", "other", "m20"].requests == 2
    assert found["a", "other", "other"].requests == 70
    ttl_ms = await store.client.pttl(store.keys("usage", f"{await today(store):%Y%m%d}"))
    assert 399 < ttl_ms / 86_400_000 <= 400


async def test_nothing_is_counted_when_it_is_off(store: JobStore, broker_settings: BrokerSettings) -> None:
    off = await limited(store, broker_settings, usage_rows_max=0)
    await alive(off)
    await off.finish(await running(off), W, JobState.SUCCEEDED, usage=Usage(2, 1, 3))
    assert await rows(off) == []


async def test_days_are_those_of_the_calendar(store: JobStore) -> None:
    lua = (resources.files("broker") / "lua" / "2_usage.lua").read_text()
    start = lua.index("local known_day")
    utc_day = lua[start : lua.index("\nend\n", start) + 5]
    moments = [0, 951_782_400_000, 1_709_164_800_000, 1_735_689_599_999, 1_735_689_600_000, 4_107_542_400_000]
    for moment in moments:
        named = await store.client.eval(f"{utc_day} return utc_day(tonumber(ARGV[1]))", 0, moment)
        assert named == f"{datetime.fromtimestamp(moment / 1000, UTC):%Y%m%d}"


async def test_old_days_are_folded_in_steps_and_lose_only_their_keys(store: JobStore) -> None:
    last = await today(store)
    old = {age: last - timedelta(days=age) for age in (62, 63, 100, 400)}
    for age, day in old.items():
        counts: dict[Any, Any] = {f"t{n % 7} k{n} m {n % 3}": f"{n} 1 2 3 4 {age} 0" for n in range(1_500)}
        await store.client.hset(store.keys("usage", f"{day:%Y%m%d}"), mapping=counts)
        await store.client.pexpire(store.keys("usage", f"{day:%Y%m%d}"), 3_600_000)
    usage = UsageStore(store)

    async def sums() -> Counter[tuple[date, str, str]]:
        found: Counter[tuple[date, str, str]] = Counter()
        for row in await rows(store, 401):
            found[row.day, row.tenant, row.model] += row.tally.requests * 10_000 + row.tally.device_us
        return found

    before = await sums()
    assert await usage.fold(400, steps=2)  # some are left
    assert await sums() == before
    while await usage.fold(400):
        pass
    assert await sums() == before
    keys = {
        day: Counter(row.key == "*" for row in await rows(store, 401) if row.day == day)
        for day in old.values()
    }
    assert keys.pop(old[62]) == {False: 1_500}
    assert all(count == {True: 21} for count in keys.values())
    assert not await usage.fold(400)


async def test_a_call_from_before_device_time_is_understood(store: JobStore) -> None:
    await alive(store)
    claim = await running(store)
    call = Finish(
        id=claim.id, attempt=1, worker=W, event=JobEvent.SUCCEED, model="m", retention_ms=1000, tail=[]
    )
    assert await store.functions.call(call, b"", b"")
    assert await tallies(store) == {("a", "-", "m"): Tally(requests=1)}


async def test_to_look_for_old_days_costs_next_to_nothing(store: JobStore) -> None:
    """Each coordinator does so every two seconds."""

    async def commands() -> int:
        return int((await store.client.info("stats"))["total_commands_processed"])

    last, usage = await today(store), UsageStore(store)
    before = await commands()
    assert not await usage.fold(400)
    assert await commands() - before < 10
    for age in (63, 100):
        day = store.keys("usage", f"{last - timedelta(days=age):%Y%m%d}")
        await store.client.hset(day, mapping={"t k m": "1 0 0 0 0 0 0"})
        await store.client.pexpire(day, 3_600_000)
    usage = UsageStore(store)
    while await usage.fold(400):
        pass
    before = await commands()
    assert not await usage.fold(400)
    assert await commands() - before < 10
