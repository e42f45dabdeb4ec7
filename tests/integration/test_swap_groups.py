"""Swap groups in Redis: grants never exceed the group's places, and end with their holder's lease."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from broker.swapping import Said, SwapGroup
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.swapping import Rules
from tests.redisproxy import RedisProxy
from tests.support import eventually, new_id
from workers.swapping.member import SwapMember

pytestmark = pytest.mark.asyncio

MACHINE, GROUP = "m", "g:0"


class Fake:
    """A member without a process: a lease and its view of the group."""

    def __init__(self, store: JobStore, name: str, awake: int = 1, every_s: float = 0.0) -> None:
        self.store, self.name = store, name
        self.group = SwapGroup(
            store,
            machine=MACHINE,
            group=GROUP,
            worker=name,
            pool=f"pool-{name}",
            awake=awake,
            every_s=every_s,
            lease_ttl_s=5.0,
        )

    async def join(self) -> None:
        await self.store.heartbeat(self.name, first=True)
        assert await self.report() is not None

    async def report(self, *, has: bool = False, **said: Any) -> Any:
        return await self.group.report(Said(**said), has=has)


async def members(store: JobStore, *names: str, **facts: Any) -> list[Fake]:
    made = [Fake(store, name, **facts) for name in names]
    for one in made:
        await one.join()
    return made


def spec(pool: str, **facts: Any) -> JobSpec:
    return JobSpec(
        **{"id": new_id(), "endpoint": "/v1/completions", "model": "m", "body": b"{}", "pool": pool} | facts
    )


async def test_only_who_is_wanted_gets_the_devices_and_only_when_they_are_free(store: JobStore) -> None:
    one, two = await members(store, "one", "two")
    assert not await one.group.take()
    assert await one.group.want([], ["one"])
    assert [await one.group.take(), await one.group.take(), await two.group.take()] == [True, True, False]
    assert not await two.group.want([], ["two"])  # somebody decided since
    assert await two.group.want(["one"], ["two"])
    assert not await two.group.take()
    view = await two.report()
    assert (view.holds, view.wanted, [m.worker for m in view.members if m.holds]) == (False, {"two"}, ["one"])
    await one.group.give()
    assert await two.group.take()
    assert (await two.report()).holds


async def test_a_grant_ends_with_the_lease(store: JobStore) -> None:
    one, two = await members(store, "one", "two")
    await one.group.want([], ["one"])
    assert await one.group.take()
    await two.group.want(["one"], ["two"])
    await store.bury("one")
    assert await two.group.take()
    assert [m.worker for m in (await two.report()).members] == ["two"]
    assert await one.report(has=True) is None  # no member any more
    assert not await one.group.take()


async def test_failed_first_loads_are_counted_until_one_succeeds(store: JobStore) -> None:
    (one,) = await members(store, "one")

    async def load() -> Fake:
        """The next incarnation of a worker of one pool gets the devices."""
        broken = Fake(store, new_id())
        broken.group._pool = "broken"
        await store.heartbeat(broken.name, first=True)
        await broken.report(boots=True)
        view = await one.report()
        await one.group.want(view.wanted, [broken.name])
        assert await broken.group.take()
        return broken

    async def failures(broken: Fake) -> int:
        view = await one.report()
        counts: list[int] = [each.failures for each in view.members if each.worker == broken.name]
        return counts[0]

    killed = await load()
    assert await failures(killed) == 0
    await store.bury(killed.name)
    fails = await load()
    assert await failures(fails) == 1
    await fails.group.give(leaves=True, failed=True)
    await store.bury(fails.name)
    waits = Fake(store, new_id())  # for the devices; it ends without having had them
    waits.group._pool = "broken"
    await store.heartbeat(waits.name, first=True)
    await waits.report(boots=True)
    await store.bury(waits.name)
    loads = await load()
    assert await failures(loads) == 2
    await loads.report(has=True)
    await loads.report(has=True, boots=True)
    assert await failures(loads) == 0


async def test_a_member_that_redis_forgot_gets_its_grant_back_if_there_is_a_place(store: JobStore) -> None:
    one, two = await members(store, "one", "two")
    await store.client.delete(store.keys("swap", MACHINE, GROUP))
    assert (await one.report(has=True)).holds
    assert not (await two.report(has=True)).holds


async def test_redis_may_be_away_while_a_member_waits_to_board(
    store: JobStore, broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    (holder,) = await members(store, "holder")
    await holder.group.want([], ["holder"])
    assert await holder.group.take()
    with RedisProxy(broker_settings.redis_url, tmp_path / "p") as proxy:
        mine = JobStore(connect(proxy.url), broker_settings)
        waits = SwapMember(
            mine,
            Fake(mine, "waits").group,
            Rules(),
            "waits",
            heartbeat_s=0.2,
            reap_interval_s=60.0,
            leaves=lambda: False,
            changed=lambda: None,
        )
        with capture_logs() as lines:
            proxy.lose = b"swap_report"
            boards = asyncio.create_task(waits.board())
            await eventually(lambda: boards.done() or any(line["event"] == "swap_not_seen" for line in lines))
        assert not boards.done()
        proxy.lose = None
        await holder.group.give(leaves=True)
        await store.bury("holder")
        (await boards).cancel()
        await waits.give()
        await mine.aclose()


async def test_one_decides_in_a_while(store: JobStore) -> None:
    one, two = await members(store, "one", "two", every_s=60.0)
    views = [await each.report() for each in (one, two, one)]
    assert not any(view.decides for view in views)  # joining did
    (often,) = await members(store, "often", every_s=0.0)
    assert (await often.report()).decides


async def test_a_view_has_what_waits_for_each_member(store: JobStore) -> None:
    (one,) = await members(store, "one")
    await store.accept(spec("pool-one", lane=Lane.NORMAL, tenant="a", expires_in_ms=60_000))
    await store.accept(spec("pool-one", lane=Lane.NORMAL, tenant="b"))
    await store.accept(spec("pool-one", lane=Lane.BULK))
    (seen,) = (await one.report(awake_ms=1000.0, idle_ms=500.0)).members
    normal, bulk = seen.waits
    assert (normal.lane, normal.jobs, bulk.lane, bulk.jobs) == ("normal", 2, "bulk", 1)
    assert 0 <= normal.oldest_ms < 60_000
    assert normal.left_ms is not None
    assert 0 < normal.left_ms <= 60_000
    assert (bulk.left_ms, seen.idle_ms) == (None, None)
    assert seen.awake_ms is not None

    await store.pause("pool-one", paused=True)
    assert not (await one.report()).members[0].waits
    for job in await store.claim("one"):
        await store.cancel(job.id)


async def test_what_waits_is_looked_up_once_for_each_decision(store: JobStore) -> None:
    one, two = await members(store, "one", "two", every_s=60.0)
    await store.accept(spec("pool-one"))

    async def seen(asks: Fake) -> dict[str, int]:
        view = await asks.report()
        return {each.worker: sum(wait.jobs for wait in each.waits) for each in view.members}

    assert await seen(two) == {"one": 0, "two": 0}
    (decider,) = await members(store, "decider")
    assert await seen(decider) == {"one": 1, "two": 0, "decider": 0}
    assert await seen(one) == await seen(two) == {"one": 1, "two": 0, "decider": 0}
    for job in await store.claim("one", pool="pool-one"):
        await store.cancel(job.id)


async def test_an_order_to_look_reaches_those_whose_place_changes(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    one, two = await members(store, "one", "two")
    heard: list[str] = []
    listener = connect(broker_settings.redis_url, text=False)
    pubsub = listener.pubsub()
    await pubsub.subscribe(*(store.keys("ctl_channel", each.name) for each in (one, two)))
    await one.group.want([], ["one"])
    await one.group.want(["one"], ["two"])
    bell = store.keys("own_bell", "one")
    assert await store.client.llen(bell) == 1  # it may wait for work
    await one.group.give()

    async def told() -> bool:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1)
        if message is not None:
            heard.append(message["channel"].decode().rpartition(":")[2])
        return len(heard) == 4

    await eventually(told)
    assert sorted(heard) == ["one", "one", "two", "two"]
    await pubsub.aclose()
    await listener.aclose()
    await store.client.delete(bell)


@pytest.mark.parametrize("awake", [1, 2])
async def test_never_more_grants_than_places(store: JobStore, awake: int) -> None:
    """Members that join, die, decide, take and give in any order."""
    rng = random.Random(awake)
    group = await members(store, "a", "b", "c", "d", awake=awake)
    key = store.keys("swap", MACHINE, GROUP)

    async def want(one: Fake) -> None:
        view = await one.report()
        if view is not None:
            await one.group.want(view.wanted, rng.sample("abcd", rng.randint(0, awake)))

    acts: list[Callable[[Fake], Any]] = [
        want,
        lambda one: one.group.take(),
        lambda one: one.group.take(),
        lambda one: one.group.give(),
        lambda one: one.report(has=True),
        lambda one: store.bury(one.name),
        lambda one: one.join(),
    ]
    most = 0
    for _ in range(150):
        await asyncio.gather(*(rng.choice(acts)(one) for one in rng.sample(group, 3)))
        fields = await store.client.hkeys(key)
        grants = [field for field in map(str, fields) if field.startswith("g:")]
        most = max(most, len(grants))
        assert len(grants) <= awake
    assert most == awake
    for one in group:
        await store.bury(one.name)
