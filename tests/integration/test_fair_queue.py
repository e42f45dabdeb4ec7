"""The fair queue on a real server: turns, windows, positions, bounds, pausing, moving, purging, ageing."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from broker.attempts import Claim
from broker.db.errors import BusyError, InfeasibleError, QueueFullError
from broker.jobs import JobStore
from broker.settings import BrokerSettings, TenantSettings
from jobs.lanes import Lane
from jobs.model import JobSpec, Queued
from jobs.states import JobState
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

W = "worker-a"
WINDOW = 32


def spec(tenant: str = "a", **changes) -> JobSpec:
    facts = {"id": new_id(), "endpoint": "/v1/completions", "model": "m", "body": b"{}", "tenant": tenant}
    return JobSpec(**facts | changes)


def with_settings(store: JobStore, settings: BrokerSettings, **changes) -> JobStore:
    return JobStore(store.client, settings.model_copy(update=changes))


async def alive(store: JobStore, capacity: int = 1000, worker: str = W) -> None:
    info = {"name": f"{worker}@host", "pool": "default", "capacity": capacity}
    await store.heartbeat(worker, first=True, info=info)


async def pop(store: JobStore, lane: Lane = Lane.NORMAL) -> str | None:
    """Take the next message as a worker does."""
    message: Any = await store.client.rpop(store.keys("queue", "default", lane))
    return None if message is None else json.loads(message)["headers"]["id"]


async def take(store: JobStore, lane: Lane = Lane.NORMAL, worker: str = W) -> Claim | None:
    """Pop and claim the next job."""
    job_id = await pop(store, lane)
    if job_id is None:
        return None
    claim = await store.claim(job_id, worker)
    assert isinstance(claim, Claim), claim
    return claim


async def tenants_in_order(store: JobStore, count: int, *, finish: bool = False) -> list[str]:
    """Take so many jobs one after the other, and say whose they were."""
    seen: list[Any] = []
    for _ in range(count):
        claim = await take(store)
        if claim is None:
            break
        seen.append((await store.client.hget(store.keys("job", claim.id), "tenant")) or "")
        if finish:
            await store.finish(claim, W, JobState.SUCCEEDED)
    return seen


async def messages(store: JobStore, lane: Lane = Lane.NORMAL) -> int:
    return await store.client.llen(store.keys("queue", "default", lane))


async def test_one_tenants_flood_delays_anothers_job_by_one_turn_at_most(store: JobStore) -> None:
    await alive(store)
    await asyncio.gather(*(store.accept(spec("flood")) for _ in range(500)))
    assert await messages(store) == WINDOW
    await tenants_in_order(store, 7)
    single = await store.accept(spec("single"))
    assert single.position in {0, 1}
    assert "single" in await tenants_in_order(store, 2)


async def test_shares_follow_the_weights(store: JobStore, broker_settings: BrokerSettings) -> None:
    tenants = {"heavy": TenantSettings(weight=3), "light": TenantSettings(weight=1)}
    weighted = with_settings(store, broker_settings, tenants=tenants)
    await weighted.set_limits()
    await alive(store)
    for _ in range(100):
        await store.accept(spec("light"))
    for _ in range(100):
        await store.accept(spec("heavy"))
    served = Counter(await tenants_in_order(store, 100))
    assert abs(served["heavy"] - 75) <= 1
    assert (await tenants_in_order(store, 400)).count("light") == 75


async def test_a_tenants_own_jobs_keep_their_order(store: JobStore) -> None:
    await alive(store)
    ids = [(await store.accept(spec("a"))).id for _ in range(3 * WINDOW)]
    for _ in range(10):
        await store.accept(spec("b"))
    taken = []
    while claim := await take(store):
        taken.append(claim.id)
    assert [job for job in taken if job in set(ids)] == ids


async def test_positions_are_exact(store: JobStore, broker_settings: BrokerSettings) -> None:
    weighted = with_settings(store, broker_settings, tenants={"b": TenantSettings(weight=2.5)})
    await weighted.set_limits()
    await alive(store)
    rng = random.Random(7)
    ids = [(await store.accept(spec(rng.choice("abc")))).id for _ in range(4 * WINDOW)]
    for _ in range(5):
        await take(store)
    told = {}
    for job_id in ids:
        job = await store.get(job_id)
        if job is not None and isinstance(job.phase, Queued):
            told[job_id] = job.phase.position
    order = []
    while claim := await take(store):
        order.append(claim.id)
    assert told == {job_id: place for place, job_id in enumerate(order)}


async def test_the_position_at_acceptance_is_the_one_of_the_record(store: JobStore) -> None:
    for n in range(2 * WINDOW):
        tenant = "ab"[n % 2] if n < WINDOW else "c"
        accepted = await store.accept(spec(tenant, lane=Lane.LOW))
        job = await store.get(accepted.id)
        assert job is not None
        assert job.phase == Queued(accepted.position, accepted.eta_ms)


async def test_cancelled_jobs_leave_no_message_and_their_place_is_taken(store: JobStore) -> None:
    ids = [(await store.accept(spec())).id for _ in range(2 * WINDOW)]
    for job_id in ids[:WINDOW]:
        assert await store.cancel(job_id) is JobState.CANCELLED
    assert await messages(store) == WINDOW
    assert await pop(store) == ids[WINDOW]


async def test_a_lost_message_among_many_is_pushed_again(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await alive(store)
    brief = with_settings(store, broker_settings, requeue_grace_s=0.05)
    ids = [(await store.accept(spec())).id for _ in range(2 * WINDOW)]
    assert await pop(store) == ids[0]  # its worker dies here

    async def repushed() -> int:
        return (await brief.reap()).repushed

    assert await eventually(repushed) == 1
    claim = await take(store)
    assert claim is not None
    assert claim.id == ids[0]


async def test_max_active_bounds_what_is_on_its_way(store: JobStore, broker_settings: BrokerSettings) -> None:
    bounded = with_settings(store, broker_settings, max_active=3)
    await bounded.set_limits()
    await alive(store)
    for _ in range(5):
        await store.accept(spec(lane=Lane.LOW))
    assert await messages(store, Lane.LOW) == 3
    first = await take(store, Lane.LOW)
    assert first is not None
    urgent = await store.accept(spec(lane=Lane.REALTIME))
    assert await messages(store, Lane.REALTIME) == 1  # in the place of a low one
    assert await messages(store, Lane.LOW) == 1
    claim = await take(store, Lane.REALTIME)
    assert claim is not None
    assert claim.id == urgent.id
    await store.finish(claim, W, JobState.SUCCEEDED)
    assert await messages(store, Lane.LOW) == 2
    await store.finish(first, W, JobState.SUCCEEDED)
    assert await messages(store, Lane.LOW) == 3


async def test_a_tenants_bound_on_running_jobs(store: JobStore, broker_settings: BrokerSettings) -> None:
    tenants = {"small": TenantSettings(max_active=2)}
    bounded = with_settings(store, broker_settings, tenants=tenants)
    await bounded.set_limits()
    await alive(store)
    for _ in range(4):
        await store.accept(spec("small"))
    for _ in range(4):
        await store.accept(spec("other"))
    claims = []
    while claim := await take(store):
        claims.append(claim)
    owners = [await store.client.hget(store.keys("job", c.id), "tenant") for c in claims]
    assert Counter(owners) == {"small": 2, "other": 4}
    await store.finish(claims[owners.index("small")], W, JobState.SUCCEEDED)
    assert await tenants_in_order(store, 5) == ["small"]


async def test_a_tenants_bound_on_waiting_jobs(store: JobStore, broker_settings: BrokerSettings) -> None:
    bounded = with_settings(store, broker_settings, tenant_queue_max=2)
    await bounded.accept(spec("a"))
    await bounded.accept(spec("a", lane=Lane.HIGH))
    with pytest.raises(QueueFullError) as refused:
        await bounded.accept(spec("a"))
    assert (refused.value.depth, refused.value.tenant) == (2, "a")
    await bounded.accept(spec("b"))


async def test_reject_mode_takes_what_fits_and_no_more(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    rejecting = with_settings(store, broker_settings, queue_mode="reject")
    with pytest.raises(BusyError):
        await rejecting.accept(spec())  # no worker, no room
    await alive(store, capacity=3)
    for _ in range(3):
        await rejecting.accept(spec())
    with pytest.raises(BusyError) as refused:
        await rejecting.accept(spec())
    assert refused.value.active == 3
    await rejecting.accept(spec(lane=Lane.BULK))
    claim = await take(store)
    assert claim is not None
    with pytest.raises(BusyError):
        await rejecting.accept(spec())
    await store.finish(claim, W, JobState.SUCCEEDED)
    await rejecting.accept(spec())


async def test_max_active_is_reject_modes_bound_too(store: JobStore, broker_settings: BrokerSettings) -> None:
    rejecting = with_settings(store, broker_settings, queue_mode="reject", max_active=1)
    await rejecting.set_limits()
    await alive(store)
    await rejecting.accept(spec())
    with pytest.raises(BusyError):
        await rejecting.accept(spec())


async def test_paused_pools_let_nothing_down(store: JobStore) -> None:
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(WINDOW + 8)]
    running = await take(store)
    assert running is not None
    assert await store.pause("default", paused=True)
    assert not await store.pause("default", paused=True)
    assert await messages(store) == 0
    ids.append((await store.accept(spec())).id)
    assert await store.release(running, W, "released") is JobState.QUEUED
    await store.reap()
    assert await messages(store) == 0
    job = await store.get(ids[-1])
    assert job is not None
    assert job.phase == Queued(WINDOW + 8)
    assert await store.pause("default", paused=False)
    taken = []
    while claim := await take(store):
        taken.append(claim.id)
    assert taken == ids


async def test_a_queued_job_changes_its_lane(store: JobStore) -> None:
    await alive(store)
    for _ in range(WINDOW):
        await store.accept(spec())
    last = await store.accept(spec())
    assert await store.move(last.id, Lane.HIGH) is JobState.QUEUED
    job = await store.get(last.id)
    assert job is not None
    assert (job.lane, job.phase) == (Lane.HIGH, Queued(0, 0))
    claim = await take(store, Lane.HIGH)
    assert claim is not None
    assert (claim.id, claim.lane) == (last.id, Lane.HIGH)
    assert await store.move(last.id, Lane.LOW) is JobState.RUNNING
    assert await store.move(new_id(), Lane.LOW) is None


async def test_a_queued_job_is_brought_to_the_top(store: JobStore) -> None:
    await alive(store)
    for tenant in ("a", "b"):
        for _ in range(WINDOW):
            await store.accept(spec(tenant))
    last = await store.accept(spec("b"))
    assert await store.move(last.id, top=True) is JobState.QUEUED
    assert await pop(store) == last.id


async def test_purging_a_lane_cancels_what_waits_there(store: JobStore) -> None:
    await alive(store)
    for _ in range(WINDOW + 600):
        await store.accept(spec())
    running = await take(store)
    other = await store.accept(spec(lane=Lane.HIGH))
    assert running is not None
    assert await store.purge("default", Lane.NORMAL) == WINDOW + 599
    assert await messages(store) == 0
    assert (await store.get(running.id)).state is JobState.RUNNING
    assert (await store.get(other.id)).state is JobState.QUEUED


async def test_long_waiting_jobs_go_up_a_lane(store: JobStore, broker_settings: BrokerSettings) -> None:
    ageing = with_settings(store, broker_settings, ageing_s=0.05)
    low = await store.accept(spec(lane=Lane.LOW))
    bulk = await store.accept(spec(lane=Lane.BULK))

    async def lane() -> Lane:
        await ageing.reap()
        return (await store.get(low.id)).lane

    async def arrived() -> bool:
        return await lane() is Lane.HIGH

    assert await eventually(arrived)
    assert (await store.get(bulk.id)).lane is Lane.BULK
    assert await messages(store, Lane.LOW) == 0
    assert await messages(store, Lane.HIGH) == 1


async def test_eta_comes_from_what_was_measured(store: JobStore) -> None:
    await alive(store, capacity=1)
    first = await store.accept(spec())
    assert first.eta_ms == 0
    claim = await take(store)
    assert claim is not None
    second = await store.accept(spec())
    assert second.eta_ms is None  # nothing has been measured yet
    await asyncio.sleep(0.05)
    await store.finish(claim, W, JobState.SUCCEEDED)
    claim = await take(store)
    third = await store.accept(spec())
    assert third.eta_ms is not None
    assert 40 <= third.eta_ms <= 2000
    assert third.run_ms is not None


async def test_an_infeasible_deadline_is_refused_with_the_estimate(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    strict = with_settings(store, broker_settings, infeasible_deadline="refuse")
    await alive(store, capacity=1)
    await store.accept(spec())
    claim = await take(store)
    await asyncio.sleep(0.05)
    await store.finish(claim, W, JobState.SUCCEEDED)
    for _ in range(50):
        await store.accept(spec())
    late = spec(expires_in_ms=300)
    with pytest.raises(InfeasibleError) as refused:
        await strict.accept(late)
    assert refused.value.estimate_ms > 300
    assert await store.get(late.id) is None
    await strict.accept(spec(expires_in_ms=600_000))
    with pytest.raises(InfeasibleError):
        await strict.accept(spec(queue_timeout_ms=300))


async def test_identical_requests_run_once(store: JobStore) -> None:
    await alive(store)
    leader = await store.accept(spec(coalesce="sum"))
    follower = await store.accept(spec(coalesce="sum"))
    other = await store.accept(spec("another", coalesce="sum"))
    assert (await store.get(follower.id)).coalesced_with == leader.id
    claim = await take(store)
    assert claim.id == leader.id
    late = await store.accept(spec(coalesce="sum"))
    await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b'{"x":1}')
    for job_id in (leader.id, follower.id, late.id):
        assert (await store.get(job_id)).state is JobState.SUCCEEDED
        assert (await store.result(job_id)).body == b'{"x":1}'
    assert (await take(store)).id == other.id
    assert await take(store) is None
    assert (await store.get((await store.accept(spec(coalesce="sum"))).id)).coalesced_with is None


async def test_a_cancelled_leader_leaves_its_work_to_a_follower(store: JobStore) -> None:
    await alive(store)
    leader = await store.accept(spec(coalesce="sum"))
    followers = [(await store.accept(spec(coalesce="sum"))).id for _ in range(2)]
    claim = await take(store)
    await store.cancel(leader.id)
    await store.finish(claim, W, JobState.CANCELLED)
    heir = await take(store)
    assert heir.id == min(followers)
    await store.finish(heir, W, JobState.SUCCEEDED, result=b"{}")
    assert {(await store.get(job_id)).state for job_id in followers} == {JobState.SUCCEEDED}
    assert (await store.get(leader.id)).state is JobState.CANCELLED


async def test_a_cancelled_follower_leaves_its_leader_alone(store: JobStore) -> None:
    await alive(store)
    leader = await store.accept(spec(coalesce="sum"))
    follower = await store.accept(spec(coalesce="sum"))
    assert await store.cancel(follower.id) is JobState.CANCELLED
    claim = await take(store)
    await store.finish(claim, W, JobState.SUCCEEDED, result=b"{}")
    assert (await store.get(follower.id)).state is JobState.CANCELLED
    assert (await store.get(leader.id)).state is JobState.SUCCEEDED


async def test_jobs_that_share_a_prefix_go_to_the_worker_that_has_it(store: JobStore) -> None:
    await alive(store, capacity=2, worker="one")
    await alive(store, capacity=2, worker="two")

    async def own(worker: str) -> str | None:
        popped: Any = await store.client.rpop(store.keys("own_queue", "default", f"{worker}@host"))
        return None if popped is None else json.loads(popped)["headers"]["id"]

    first = await store.accept(spec(affinity="p"))
    assert await own("one") is None
    claims = [await store.claim(await pop(store), "two")]
    second = await store.accept(spec(affinity="p"))
    third = await store.accept(spec(affinity="p"))
    assert claims[0].id == first.id
    assert await own("two") == second.id
    assert await own("two") is None
    assert await pop(store) == third.id  # there is no room on two: whoever is free takes it


async def test_jobs_at_the_top_stand_where_their_positions_say(store: JobStore) -> None:
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(6)]
    for job_id in (ids[4], ids[2], ids[5]):
        await store.move(job_id, top=True)
    expected = [ids[5], ids[2], ids[4], ids[0], ids[1], ids[3]]
    assert [(await store.get(job_id)).phase.position for job_id in expected] == list(range(6))
    taken = []
    while claim := await take(store):
        taken.append(claim.id)
    assert taken == expected
