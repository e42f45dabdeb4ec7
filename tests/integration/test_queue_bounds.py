"""Bounds of the fair queue: bulk shuts nobody out, a tenant's bound hurts no other, and estimates know of both."""

from __future__ import annotations

import asyncio

import pytest

from broker.db.errors import BusyError, InfeasibleError, QueueFullError
from broker.jobs import JobStore
from broker.settings import BrokerSettings, TenantSettings
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FAILURES, FailureCode
from jobs.lanes import Lane
from jobs.model import JobError
from jobs.states import JobState
from tests.integration.test_fair_queue import W, alive, messages, spec, take, with_settings

pytestmark = pytest.mark.asyncio


async def limited(store: JobStore, settings: BrokerSettings, **changes) -> JobStore:
    bounded = with_settings(store, settings, **changes)
    await bounded.set_limits()
    return bounded


async def measured(store: JobStore, ms: int) -> None:
    """Have the pool's mean run known."""
    await store.client.hset(store.keys("rate", "default"), "run", ms)


async def test_bulk_never_has_every_place_of_max_active(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await limited(store, broker_settings, max_active=4)
    await alive(store)
    for _ in range(6):
        await store.accept(spec(lane=Lane.BULK))
    assert await messages(store, Lane.BULK) == 3
    running = [await take(store, Lane.BULK) for _ in range(3)]
    await store.accept(spec())
    await store.accept(spec())
    assert await messages(store) == 1
    assert await take(store) is not None
    await store.finish(running[0], W, JobState.SUCCEEDED)
    assert await messages(store) == 1  # and not a fourth bulk job
    assert await messages(store, Lane.BULK) == 0


async def test_with_one_place_bulk_runs_and_an_interactive_job_beside_it(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    rejecting = await limited(store, broker_settings, max_active=1, queue_mode="reject")
    await alive(store)
    for _ in range(2):
        await store.accept(spec(lane=Lane.BULK))
    assert await take(store, Lane.BULK) is not None
    assert await take(store, Lane.BULK) is None
    await rejecting.accept(spec())
    assert await take(store) is not None
    with pytest.raises(BusyError):
        await rejecting.accept(spec())
    await store.accept(spec())
    assert await take(store) is None


async def test_a_tenants_bulk_does_not_keep_its_own_calls_waiting(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await limited(store, broker_settings, tenant_max_active=4)
    await alive(store)
    for _ in range(6):
        await store.accept(spec(lane=Lane.BULK))
    assert await messages(store, Lane.BULK) == 3
    for _ in range(3):
        await store.accept(spec(lane=Lane.LOW))
    assert await messages(store, Lane.LOW) + await messages(store, Lane.BULK) == 4
    call = await store.accept(spec(lane=Lane.REALTIME))
    claim = await take(store, Lane.REALTIME)
    assert claim is not None
    assert claim.id == call.id
    while await take(store, Lane.LOW) or await take(store, Lane.BULK):
        pass
    assert await store.client.hget(store.keys("admitted", "default"), "a") == "4"
    await store.finish(claim, W, JobState.SUCCEEDED)
    assert await messages(store, Lane.LOW) + await messages(store, Lane.BULK) == 1


async def test_a_newcomer_does_not_pass_a_tenant_that_was_at_its_bound(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await limited(store, broker_settings, tenants={"early": TenantSettings(max_active=2)})
    await alive(store)
    for _ in range(100):
        await store.accept(spec("early"))
    running = [await take(store), await take(store)]
    for _ in range(50):
        await store.finish(running.pop(0), W, JobState.SUCCEEDED)
        running.append(await take(store))
    for _ in range(60):
        await store.accept(spec("late"))
    served = []
    for _ in range(30):
        await store.finish(running.pop(0), W, JobState.SUCCEEDED)
        claim = await take(store)
        assert claim is not None
        served.append(claim.tenant)
        running.append(claim)
    assert 13 <= served.count("early") <= 17  # turn by turn, from the first


async def test_estimates_know_the_bounds(store: JobStore, broker_settings: BrokerSettings) -> None:
    bounded = await limited(
        store,
        broker_settings,
        max_active=2,
        infeasible_deadline="refuse",
        tenants={"one": TenantSettings(max_active=1)},
    )
    await alive(store, capacity=256)
    await measured(store, 1000)
    told = [(await store.accept(spec())).eta_ms for _ in range(4)]
    assert told == [0, 0, 1500, 2000]
    with pytest.raises(InfeasibleError):
        await bounded.accept(spec(queue_timeout_ms=1000))
    assert (await store.accept(spec(lane=Lane.BULK))).eta_ms == 5000  # of two places bulk has one
    await store.pause("default", paused=True)
    assert (await store.accept(spec())).eta_ms is None
    await store.pause("default", paused=False)


async def test_estimates_know_a_tenants_bound(store: JobStore, broker_settings: BrokerSettings) -> None:
    await limited(store, broker_settings, tenants={"one": TenantSettings(max_active=1)})
    await alive(store, capacity=256)
    await measured(store, 1000)
    told = [await store.accept(spec("one")) for _ in range(4)]
    assert [accepted.eta_ms for accepted in told] == [0, 1000, 2000, 3000]
    assert (await store.get(told[2].id)).phase.eta_ms == 2000
    assert (await store.accept(spec("two"))).eta_ms == 0


async def test_bulks_estimate_knows_its_share_of_the_slots(store: JobStore) -> None:
    info = {"name": "w@host", "pool": "default", "capacity": 8, "bulk_capacity": 6}
    await store.heartbeat(W, first=True, info=info)
    await measured(store, 600)
    told = [(await store.accept(spec(lane=Lane.BULK))).eta_ms for _ in range(8)]
    assert told == [0] * 6 + [700, 800]


async def test_reject_mode_knows_slots_drains_pauses_and_bounds(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    facts = {
        "max_active": 100,
        "queue_mode": "reject",
        "queue_max": 1,
        "tenants": {"one": TenantSettings(max_active=1)},
    }
    rejecting = await limited(store, broker_settings, **facts)
    await alive(store, capacity=2)
    for _ in range(2):  # more than queue_max
        await rejecting.accept(spec())
    with pytest.raises(BusyError):
        await rejecting.accept(spec())
    chunk = spec(lane=Lane.LOW, endpoint=CHUNK_ENDPOINT, metadata={"batch": "batch_1"})
    await with_settings(store, broker_settings, queue_mode="reject").accept(
        chunk
    )  # a promoted one waits its turn
    await store.cancel(chunk.id)

    claims = [await take(store), await take(store)]
    await store.heartbeat(
        W, info={"name": f"{W}@host", "pool": "default", "capacity": 2, "state": "draining"}
    )
    await alive(store, capacity=2, worker="new")
    await rejecting.accept(spec("one"))
    with pytest.raises(BusyError):
        await rejecting.accept(spec("one"))
    await store.pause("default", paused=True)
    with pytest.raises(BusyError):
        await rejecting.accept(spec())
    await store.pause("default", paused=False)
    await rejecting.accept(spec())
    for claim in claims:
        await store.finish(claim, W, JobState.SUCCEEDED)


async def test_queue_max_counts_who_waits_and_not_who_finds_a_place(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    bounded = with_settings(store, broker_settings, queue_max=2)
    await alive(store, capacity=8)
    for _ in range(10):
        await bounded.accept(spec())
    with pytest.raises(QueueFullError) as refused:
        await bounded.accept(spec())
    assert refused.value.depth == 10
    assert await take(store) is not None
    with pytest.raises(QueueFullError):  # it took the place of one that found one
        await bounded.accept(spec())


async def test_pausing_takes_back_what_waits_for_its_own_worker(store: JobStore) -> None:
    await alive(store, capacity=9)
    await store.accept(spec(affinity="p"))
    assert await take(store) is not None
    own = store.keys("own_queue", "default", f"{W}@host")
    await store.accept(spec())
    await store.accept(spec(affinity="p"))
    assert await store.client.llen(own) == 1
    await store.pause("default", paused=True)
    assert (await store.client.llen(own), await messages(store)) == (0, 0)


async def test_a_worker_that_misses_its_beats_is_not_preferred(store: JobStore) -> None:
    await alive(store, capacity=9)
    await store.accept(spec(affinity="p"))
    assert await take(store) is not None
    workers, lease = store.keys("workers"), int(await store.client.hget(store.keys("worker", W), "ttl"))
    await store.client.zincrby(workers, -0.6 * lease, W)
    await store.accept(spec(affinity="p"))
    assert await messages(store) == 1


async def test_purging_finds_what_waits_for_its_next_attempt_among_others(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    slow = with_settings(store, broker_settings, retry_base_s=100, retry_max_s=1000)
    await alive(store)

    async def put_off(lane: Lane) -> str:
        await slow.accept(spec(lane=lane, max_attempts=3))
        claim = await take(store, lane)
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


async def test_ageing_is_as_the_apis_say(store: JobStore, broker_settings: BrokerSettings) -> None:
    await limited(store, broker_settings, ageing_s=0)
    eager = with_settings(store, broker_settings, ageing_s=0.001)
    low = await store.accept(spec(lane=Lane.LOW))
    await asyncio.sleep(0.01)
    await eager.reap()
    assert (await store.get(low.id)).lane is Lane.LOW


async def test_followers_have_started_when_their_leader_has(store: JobStore) -> None:
    await alive(store)
    await store.accept(spec(coalesce="sum"))
    early = await store.accept(spec(coalesce="sum", queue_timeout_ms=30))
    claim = await take(store)
    late = await store.accept(spec(coalesce="sum", queue_timeout_ms=30))
    await asyncio.sleep(0.05)
    await store.reap()
    await store.finish(claim, W, JobState.SUCCEEDED, result=b"{}")
    for job_id in (early.id, late.id):
        assert (await store.get(job_id)).state is JobState.SUCCEEDED


@pytest.mark.parametrize("code", [FailureCode.TIMEOUT, FailureCode.INVALID_REQUEST])
async def test_a_follower_runs_where_its_leaders_failure_says_nothing_of_the_request(
    store: JobStore, code: FailureCode
) -> None:
    await alive(store)
    await store.accept(spec(coalesce="sum"))
    follower = await store.accept(spec(coalesce="sum"))
    claim = await take(store)
    error = JobError(code, "no")
    await store.finish(claim, W, JobState.FAILED, status=FAILURES[code].http_status, error=error)
    heir = await take(store)
    if code is FailureCode.TIMEOUT:
        assert heir is not None
        assert heir.id == follower.id
    else:
        assert heir is None
        assert (await store.get(follower.id)).state is JobState.FAILED


async def test_a_call_does_not_wait_for_an_identical_bulk_job_that_runs(store: JobStore) -> None:
    await alive(store)
    await store.accept(spec(lane=Lane.BULK, coalesce="sum"))
    assert await take(store, Lane.BULK) is not None
    call = await store.accept(spec(lane=Lane.REALTIME, coalesce="sum"))
    assert (await store.get(call.id)).coalesced_with is None
    claim = await take(store, Lane.REALTIME)
    assert claim is not None
    assert claim.id == call.id
