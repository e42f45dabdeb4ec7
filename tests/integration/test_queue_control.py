"""What operators and time do to a queue: pauses, moves, purges, ageing; and a second start, which does nothing."""

from __future__ import annotations

import asyncio

import pytest

from broker.celery.app import make_celery
from broker.celery.envelope import learn_envelope
from broker.db.calls.queues import Purge
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError, Queued
from jobs.states import JobState
from tests.integration.test_fair_queue import W, alive, limited, positions, spec, take, take_all, waiting
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio


async def test_a_paused_pool_gives_nothing(store: JobStore) -> None:
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(8)]
    running = await take(store)
    assert running is not None
    assert await store.pause("default", paused=True)
    assert not await store.pause("default", paused=True)
    assert await take(store) is None
    ids.append((await store.accept(spec())).id)
    assert await store.release(running, W, "released") is JobState.QUEUED
    await store.reap()
    assert await take(store) is None
    job = await store.get(ids[-1])
    assert job is not None
    assert job.phase == Queued(8)
    assert await store.pause("default", paused=False)
    assert not await store.pause("default", paused=False)
    assert await take_all(store) == ids


async def test_a_second_start_disturbs_neither_pause_nor_cancel_nor_order(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """Celery's messages differ from start to start; no queued job has one that would have to be found again."""
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(40)]
    await store.pause("default", paused=True)
    second = JobStore(connect(broker_settings.redis_url), broker_settings)
    try:
        envelopes = {learn_envelope(make_celery(broker_settings.redis_url, "any")) for _ in range(2)}
        assert len(envelopes) == 2
        await second.set_limits()
        await alive(second, worker="second")
        assert await take(second, "second") is None
        for job_id in ids[:3]:
            assert await second.cancel(job_id) is JobState.CANCELLED
        ids.append((await second.accept(spec())).id)
        assert await second.pause("default", paused=False)
        assert await positions(second, ids) == {job_id: place for place, job_id in enumerate(ids[3:])}
        assert await take_all(store) == ids[3:]
    finally:
        await second.aclose()


async def test_a_queued_job_changes_its_lane(store: JobStore) -> None:
    await alive(store)
    for _ in range(32):
        await store.accept(spec())
    last = await store.accept(spec())
    assert await store.move(last.id, Lane.HIGH) is JobState.QUEUED
    job = await store.get(last.id)
    assert job is not None
    assert (job.lane, job.phase) == (Lane.HIGH, Queued(0, 0))
    claim = await take(store)
    assert claim is not None
    assert (claim.id, claim.lane) == (last.id, Lane.HIGH)
    assert await store.move(last.id, Lane.LOW) is JobState.RUNNING
    assert await store.move(new_id(), Lane.LOW) is None


async def test_a_queued_job_is_brought_to_the_top(store: JobStore) -> None:
    await alive(store)
    for tenant in ("a", "b"):
        for _ in range(32):
            await store.accept(spec(tenant))
    last = await store.accept(spec("b"))
    assert await store.move(last.id, top=True) is JobState.QUEUED
    claim = await take(store)
    assert claim is not None
    assert claim.id == last.id


async def test_purging_a_lane_cancels_what_waits_there(store: JobStore) -> None:
    await alive(store)
    for _ in range(632):
        await store.accept(spec())
    running = await take(store)
    other = await store.accept(spec(lane=Lane.HIGH))
    assert running is not None
    assert await store.purge("default", Lane.NORMAL) == 631
    assert await waiting(store) == 0
    assert (await store.get(running.id)).state is JobState.RUNNING
    assert (await store.get(other.id)).state is JobState.QUEUED


async def test_purging_finds_what_waits_for_its_next_attempt_among_others(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    slow = JobStore(
        store.client, broker_settings.model_copy(update={"retry_base_s": 100, "retry_max_s": 1000})
    )
    await alive(store)

    async def put_off(lane: Lane) -> str:
        await slow.accept(spec(lane=lane, max_attempts=3))
        claim = await take(store)
        assert claim is not None
        error = JobError(FailureCode.ENGINE_ERROR, "not now")
        assert await slow.retry_later(claim, W, error, 1.0, status=500) is JobState.QUEUED
        return claim.id

    others = [await put_off(Lane.LOW) for _ in range(3)]
    ours = await put_off(Lane.NORMAL)
    queued = await store.accept(spec())
    assert await store.purge("default", Lane.NORMAL) == 2
    for job_id, state in (
        (ours, "cancelled"),
        (queued.id, "cancelled"),
        *((other, "queued") for other in others),
    ):
        assert (await store.get(job_id)).state == state


async def test_a_purge_leaves_running_jobs_and_takes_those_that_waited_for_them(store: JobStore) -> None:
    await alive(store)
    running = await store.accept(spec())
    await take(store)
    leader, follower = spec(coalesce="same"), spec(coalesce="same")
    await store.accept(leader)
    await store.accept(follower)
    await store.move(leader.id, top=True)
    assert await store.purge("default", Lane.NORMAL) == 2
    states = [(await store.get(job_id)).state for job_id in (running.id, leader.id, follower.id)]
    assert states == [JobState.RUNNING, JobState.CANCELLED, JobState.CANCELLED]
    call = Purge(pool="default", lane="normal", ids=[running.id], retention_ms=1000)
    assert await store.functions.call(call) == 0
    assert not (await store.get(running.id)).cancel_requested


async def test_long_waiting_jobs_go_up_a_lane(store: JobStore, broker_settings: BrokerSettings) -> None:
    ageing = JobStore(store.client, broker_settings.model_copy(update={"ageing_s": 0.05}))
    low = await store.accept(spec(lane=Lane.LOW))
    bulk = await store.accept(spec(lane=Lane.BULK))

    async def arrived() -> bool:
        await ageing.reap()
        return (await store.get(low.id)).lane is Lane.HIGH

    await eventually(arrived)
    assert (await store.get(bulk.id)).lane is Lane.BULK
    assert (await waiting(store, Lane.LOW), await waiting(store, Lane.HIGH)) == (0, 1)


async def test_a_lost_record_keeps_none_behind_it_from_ageing(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    ageing = JobStore(store.client, broker_settings.model_copy(update={"ageing_s": 0.05}))
    lost, low = [await store.accept(spec(lane=Lane.LOW)) for _ in range(2)]
    await store.client.delete(store.keys("job", lost.id))

    async def arrived() -> bool:
        await ageing.reap()
        return (await store.get(low.id)).lane is Lane.HIGH

    await eventually(arrived)
    assert (await waiting(store, Lane.LOW), await waiting(store, Lane.HIGH)) == (1, 1)
    await alive(store)
    assert [await take(store) is not None for _ in range(2)] == [True, False]
    for index in (store.keys("jobs"), store.keys("jobs_of", "a")):
        await store.client.zrem(index, lost.id)


async def test_ageing_is_as_the_apis_say(store: JobStore, broker_settings: BrokerSettings) -> None:
    await limited(store, broker_settings, ageing_s=0)
    eager = JobStore(store.client, broker_settings.model_copy(update={"ageing_s": 0.001}))
    low = await store.accept(spec(lane=Lane.LOW))
    await eventually(lambda: asyncio.sleep(0.01, True))
    await eager.reap()
    assert (await store.get(low.id)).lane is Lane.LOW


async def test_the_oldest_of_many_tenants_age_round_by_round(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """A round looks at some tenants only, and the next one at others."""
    ageing = JobStore(store.client, broker_settings.model_copy(update={"ageing_s": 0.001}))
    ids = [(await store.accept(spec(f"t{n}", lane=Lane.LOW))).id for n in range(130)]
    await eventually(lambda: asyncio.sleep(0.005, True))

    async def none_is_low() -> bool:
        await ageing.reap()
        return await waiting(store, Lane.LOW) == 0

    await eventually(none_is_low)
    assert sum([await waiting(store, lane) for lane in (Lane.NORMAL, Lane.HIGH)]) == len(ids)


@pytest.mark.parametrize("pools", [1, 30])
async def test_a_view_of_many_pools_takes_two_round_trips(store: JobStore, pools: int) -> None:
    names = [f"p{n}" for n in range(pools)]
    for name in names:
        for tenant in ("a", "b"):
            await store.accept(spec(tenant, pool=name))
    sent: list[int] = []
    inner = store.client.connection_pool.get_connection

    async def counting(*args, **kwargs):
        sent.append(1)  # each pipeline and each command takes a connection for one round trip
        return await inner(*args, **kwargs)

    store.client.connection_pool.get_connection = counting  # type: ignore[method-assign]
    try:
        views = await store.queues(names)
    finally:
        store.client.connection_pool.get_connection = inner  # type: ignore[method-assign]
    assert len(sent) == 2
    assert {view.pool: [(t.tenant, t.queued) for t in view.tenants] for view in views} == {
        name: [("a", 1), ("b", 1)] for name in names
    }
