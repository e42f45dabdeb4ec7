"""Following jobs: nothing lost, nothing twice, whatever happens between server and hub."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from broker.claims import Claim
from broker.db.client import connect
from broker.endings import decode_ending
from broker.events.hub import PAGE, EventHub, parse_cursor
from broker.events.subscriber import Subscriber
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.model import JobSpec, Usage
from jobs.states import JobState
from tests.redisproxy import RedisProxy
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

W = "worker-a"


@pytest_asyncio.fixture
async def hub(store: JobStore, broker_settings: BrokerSettings) -> AsyncIterator[EventHub]:
    hub = EventHub(store, connect(broker_settings.redis_url, text=False), "api-1", inbox_limit=50)
    await hub.start()
    yield hub
    await hub.stop()


async def running(store: JobStore, *, stream: bool = True, sink: str | None = None) -> Claim:
    await store.heartbeat(W, first=True)
    await store.accept(JobSpec(new_id(), "/v1/completions", "m", b"{}", stream=stream, sink=sink))
    (claim,) = await store.claim(W)
    return claim


async def speak(store: JobStore, claim: Claim, count: int, *, first: int = 1) -> None:
    for seq in range(first, first + count):
        await store.append([(claim.id, claim.attempt, seq, f"t{seq}")])


async def read_all(hub: EventHub, job_id: str, after: str = "0-0") -> list[tuple[str, str]]:
    with hub.inbox(job_id) as inbox:
        return [event async for batch in hub.follow(job_id, inbox, after=after) for event in batch]


def texts(events: list[tuple[str, str]]) -> list[int]:
    return [int(payload[1:]) for _, payload in events if payload[0] == "t"]


async def test_follow_live_and_after_the_end_are_the_same(store: JobStore, hub: EventHub) -> None:
    claim = await running(store)
    follower = asyncio.create_task(read_all(hub, claim.id))
    await speak(store, claim, 20)
    await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b"{}", usage=Usage(1, 20, 21))
    live = await asyncio.wait_for(follower, 10)
    late = await asyncio.wait_for(read_all(hub, claim.id), 10)
    assert [eid for eid, _ in live] == [eid for eid, _ in late]
    assert texts(live) == list(range(1, 21))
    assert decode_ending(live[-1][1]).usage == Usage(1, 20, 21)


@pytest.mark.parametrize("cut", [0, 1, 7, 19, 20])
async def test_resume_after_a_cursor_is_exactly_once(store: JobStore, hub: EventHub, cut: int) -> None:
    claim = await running(store)
    await speak(store, claim, 20)
    await store.finish(claim, W, JobState.SUCCEEDED)
    assert texts(await read_all(hub, claim.id, f"1-{cut}")) == list(range(cut + 1, 21))


async def test_connections_cut_again_and_again(store: JobStore, hub: EventHub) -> None:
    claim = await running(store)
    follower = asyncio.create_task(read_all(hub, claim.id))
    rng = random.Random(7)
    for seq in range(1, 200):
        await store.append([(claim.id, 1, seq, f"t{seq}")])
        if rng.random() < 0.1:
            await store.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await store.finish(claim, W, JobState.SUCCEEDED)
    assert texts(await asyncio.wait_for(follower, 30)) == list(range(1, 200))


async def test_a_client_that_cannot_keep_up_is_moved_to_the_log(store: JobStore, hub: EventHub) -> None:
    claim = await running(store)
    seen: list[tuple[str, str]] = []
    with hub.inbox(claim.id) as inbox:
        stream = hub.follow(claim.id, inbox)
        seen += await anext(stream)
        await speak(store, claim, 180)  # the inbox holds 50
        await eventually(lambda: inbox.lost)
        await store.finish(claim, W, JobState.SUCCEEDED)
        async for batch in stream:
            seen += batch
    assert texts(seen) == list(range(1, 181))


async def test_a_second_attempt_is_told_apart(store: JobStore, hub: EventHub) -> None:
    claim = await running(store)
    follower = asyncio.create_task(read_all(hub, claim.id))
    await speak(store, claim, 3)
    await store.release(claim, W, "released")
    (again,) = await store.claim(W)
    await speak(store, again, 2)
    await store.finish(again, W, JobState.SUCCEEDED)
    events = await asyncio.wait_for(follower, 10)
    cursors = [parse_cursor(eid) for eid, _ in events]
    assert cursors == sorted(set(cursors))
    assert texts(events) == [1, 2, 3, 1, 2]
    assert [payload[:20] for _, payload in events if payload[0] == "s"][-1].startswith("s")


@pytest.mark.parametrize("sink", [None, "api-1"])
async def test_waiting_for_the_end_with_its_result(store: JobStore, hub: EventHub, sink: str | None) -> None:
    claim = await running(store, stream=False, sink=sink)
    with hub.inbox(claim.id) as inbox:
        await store.watch(claim.id, "api-1")
        waiter = asyncio.create_task(hub.ending(claim.id, inbox))
        await store.finish(claim, W, JobState.SUCCEEDED, status=200, result='{"t":"ü\\n"}'.encode())
        ending = await asyncio.wait_for(waiter, 10)
    assert (ending.state, ending.status, ending.result) == (JobState.SUCCEEDED, 200, '{"t":"ü\\n"}'.encode())


async def test_an_end_missed_while_disconnected_is_read_from_the_record(
    store: JobStore, hub: EventHub
) -> None:
    claim = await running(store, stream=False)
    with hub.inbox(claim.id) as inbox:
        waiter = asyncio.create_task(hub.ending(claim.id, inbox))
        await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b"{}")  # nobody was told
        await store.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert (await asyncio.wait_for(waiter, 10)).result == b"{}"


async def test_jobs_without_a_stream_have_their_states(store: JobStore, hub: EventHub) -> None:
    claim = await running(store, stream=False)
    follower = asyncio.create_task(read_all(hub, claim.id))
    await eventually(lambda: store.client.hexists(store.keys("job", claim.id), "sinks"))
    await store.finish(claim, W, JobState.SUCCEEDED)
    events = await asyncio.wait_for(follower, 10)
    assert [eid for eid, _ in events] == ["0-1", "1-0", "1-4294967295"]
    assert [eid for eid, _ in await read_all(hub, claim.id, "1-0")] == ["1-4294967295"]


async def test_unknown_jobs_and_cursors(hub: EventHub) -> None:
    with pytest.raises(LookupError):
        await read_all(hub, new_id())
    for text in ("", "1", "a-b", "1-", "-1", "1-2-3", "\u0661-\u0661"):
        with pytest.raises(ValueError, match="not an event id"):
            parse_cursor(text)


@pytest.mark.parametrize("noise", [b"\xc1", b"no list", b"\x91\xa1x", b"\x93\xa1a\xa1b\x01"])
async def test_noise_on_the_channel_does_not_end_the_subscription(
    store: JobStore, hub: EventHub, noise: bytes
) -> None:
    claim = await running(store)
    follower = asyncio.create_task(read_all(hub, claim.id))
    await eventually(lambda: hub._inboxes)
    await store.client.publish(store.keys("api_channel", "api-1"), noise)
    await speak(store, claim, 3)
    await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b"{}")
    assert texts(await asyncio.wait_for(follower, 10)) == [1, 2, 3]


async def test_a_message_that_cannot_be_read_is_a_gap(store: JobStore, hub: EventHub) -> None:
    """Redis packs an end whose result is not UTF-8, and nobody can unpack it: the waiter looks at the record."""
    claim = await running(store, stream=False)
    with hub.inbox(claim.id) as inbox:
        await store.watch(claim.id, "api-1")
        waiter = asyncio.create_task(hub.ending(claim.id, inbox))
        await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b'{"t": "\xff"}')
        assert (await asyncio.wait_for(waiter, 10)).result == b'{"t": "\xff"}'


@pytest.fixture
def watchful(store: JobStore, broker_settings: BrokerSettings) -> EventHub:
    """A hub that looks by itself soon, and hears nothing."""
    return EventHub(store, connect(broker_settings.redis_url, text=False), "api-2", look_s=0.2)


async def test_a_waiter_looks_at_the_record_now_and_then(store: JobStore, watchful: EventHub) -> None:
    claim = await running(store, stream=False)
    with watchful.inbox(claim.id) as inbox:
        waiter = asyncio.create_task(watchful.ending(claim.id, inbox))
        await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b"{}")
        assert (await asyncio.wait_for(waiter, 10)).result == b"{}"
    await watchful.stop()


async def test_a_follower_looks_at_the_log_now_and_then(store: JobStore, watchful: EventHub) -> None:
    claim = await running(store)
    follower = asyncio.create_task(read_all(watchful, claim.id))
    await eventually(lambda: watchful._inboxes)
    await speak(store, claim, 5)
    await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b"{}")
    assert texts(await asyncio.wait_for(follower, 10)) == [1, 2, 3, 4, 5]
    await watchful.stop()


@pytest_asyncio.fixture
async def cut_off(
    store: JobStore, broker_settings: BrokerSettings, tmp_path: Path
) -> AsyncIterator[tuple[EventHub, RedisProxy]]:
    """A hub that looks by itself soon, through a proxy that loses the answers."""
    with RedisProxy(broker_settings.redis_url, tmp_path / "proxy") as proxy:
        proxied = JobStore(connect(proxy.url, retries=0), broker_settings)
        hub = EventHub(proxied, connect(broker_settings.redis_url, text=False), "api-4", look_s=0.1)
        await hub.start()
        yield hub, proxy
        await hub.stop()
        await proxied.aclose()


async def test_a_waiter_outlives_looks_while_redis_is_away(
    store: JobStore, cut_off: tuple[EventHub, RedisProxy]
) -> None:
    hub, proxy = cut_off
    claim = await running(store, stream=False)
    with hub.inbox(claim.id) as inbox:
        proxy.lose = b"HMGET"
        waiter = asyncio.create_task(hub.ending(claim.id, inbox))
        await eventually(lambda: proxy.lost >= 3 or waiter.done())
        await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b"{}")
        proxy.lose = None
        assert (await asyncio.wait_for(waiter, 10)).result == b"{}"


async def test_a_follower_outlives_looks_while_redis_is_away(
    store: JobStore, cut_off: tuple[EventHub, RedisProxy]
) -> None:
    """It goes on where it was, in order, also if events come by the subscription meanwhile."""
    hub, proxy = cut_off
    claim = await running(store, sink="api-4")
    seen: list[int] = []

    async def follow() -> None:
        with hub.inbox(claim.id) as inbox:
            async for batch in hub.follow(claim.id, inbox):
                seen.extend(texts(batch))

    follower = asyncio.create_task(follow())
    await speak(store, claim, 3)
    await eventually(lambda: seen == [1, 2, 3])
    proxy.lose = b"HMGET"
    await eventually(lambda: proxy.lost >= 3 or follower.done())
    await speak(store, claim, 2, first=4)
    proxy.lose = None
    await eventually(lambda: seen[-1] == 5 or follower.done())
    await store.finish(claim, W, JobState.SUCCEEDED)
    await asyncio.wait_for(follower, 10)
    assert seen == [1, 2, 3, 4, 5]


async def test_a_long_log_is_read_in_pages(store: JobStore, hub: EventHub) -> None:
    claim = await running(store)
    said = 2 * PAGE + 17
    await store.append([(claim.id, claim.attempt, seq, f"t{seq}") for seq in range(1, said + 1)])
    await store.finish(claim, W, JobState.SUCCEEDED)
    with hub.inbox(claim.id) as inbox:
        pages = [page async for page in hub.follow(claim.id, inbox)]
    assert max(len(page) for page in pages) <= PAGE
    assert texts([event for page in pages for event in page]) == list(range(1, said + 1))


async def test_a_slow_client_holds_no_more_than_its_bytes(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    client = connect(broker_settings.redis_url, text=False)
    small = EventHub(store, client, "api-3", inbox_max_bytes=10_000)
    await small.start()
    claim = await running(store, sink="api-3")
    with small.inbox(claim.id) as inbox:
        for seq in range(1, 21):
            await store.append([(claim.id, claim.attempt, seq, "t" + "x" * 1000)])
        await eventually(lambda: inbox.lost)
        assert not inbox.events
        await store.finish(claim, W, JobState.SUCCEEDED)
        events = [event async for batch in small.follow(claim.id, inbox, live=True) for event in batch]
    assert [parse_cursor(eid)[1] for eid, payload in events if payload[0] == "t"] == list(range(1, 21))
    await small.stop()


async def test_a_result_too_long_to_be_published_is_read_from_the_record(
    store: JobStore, hub: EventHub
) -> None:
    """Redis would disconnect the subscription, which all clients of the process share."""

    async def subscribers() -> set[str]:
        return {one["id"] for one in await store.client.client_list(_type="pubsub")}

    result = b'"' + b"x" * (40 * 1024 * 1024) + b'"'
    before = await subscribers()
    claim = await running(store, stream=False)
    with hub.inbox(claim.id) as inbox:
        await store.watch(claim.id, "api-1")
        waiter = asyncio.create_task(hub.ending(claim.id, inbox))
        await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=result)
        ending = await asyncio.wait_for(waiter, 10)
    assert (ending.state, ending.status) == (JobState.SUCCEEDED, 200)
    ended = await hub.ended(claim.id)
    assert ended is not None
    assert ended.result == result
    assert await subscribers() == before


@pytest.mark.parametrize("at_the_end", [False, True])
async def test_a_chunk_too_long_to_be_published_is_read_from_the_log(
    store: JobStore, hub: EventHub, *, at_the_end: bool
) -> None:
    claim = await running(store)
    follower = asyncio.create_task(read_all(hub, claim.id))
    await eventually(lambda: store.client.hexists(store.keys("job", claim.id), "sinks"))
    await speak(store, claim, 2)
    long = "t" + "x" * 1_000_000
    if not at_the_end:
        await store.append([(claim.id, claim.attempt, 3, long), (claim.id, claim.attempt, 4, "t4")])
    tail = [(3, long), (4, "t4")] if at_the_end else []
    await store.finish(claim, W, JobState.SUCCEEDED, tail=tail)
    said = [payload for _, payload in await asyncio.wait_for(follower, 10) if payload[0] == "t"]
    assert said == ["t1", "t2", long, "t4"]


async def test_an_unexpected_error_does_not_end_the_subscription(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    heard: list[list[str]] = []
    gaps: list[int] = []

    def gap() -> None:
        gaps.append(1)
        if len(gaps) == 1:
            raise KeyError("a defect")
        if len(gaps) == 2:
            raise asyncio.CancelledError  # as redis-py's time-outs have let one escape

    ears = Subscriber(connect(broker_settings.redis_url, text=False), "channel", heard.append, gap)
    await ears.start()
    await eventually(lambda: len(gaps) == 3)
    assert ears.deaf_s == 0
    await store.client.publish("channel", msgspec.msgpack.encode(["a"]))
    await eventually(lambda: heard == [["a"]])
    await ears.stop()
    assert ears.deaf_s == float("inf")


async def test_chunks_of_one_call_that_are_long_together_come_in_order(
    store: JobStore, hub: EventHub
) -> None:
    """They are published in several messages."""
    one, other = [await running(store, sink="api-1") for _ in range(2)]
    with hub.inbox(one.id) as inbox:
        entries = [
            (claim.id, claim.attempt, seq, f"t{seq}" + "x" * 100_000)
            for seq in range(1, 9)
            for claim in (one, other)
        ]
        await store.append(entries)
        await store.finish(one, W, JobState.SUCCEEDED)
        events = [event async for batch in hub.follow(one.id, inbox, live=True) for event in batch]
    assert [parse_cursor(eid)[1] for eid, payload in events if payload[0] == "t"] == list(range(1, 9))
    assert all(len(payload) == 100_002 for _, payload in events if payload[0] == "t")
    await store.finish(other, W, JobState.SUCCEEDED)
