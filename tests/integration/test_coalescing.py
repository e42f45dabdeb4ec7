"""Identical, deterministic requests at the store: one runs, the others share its end; within every bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from broker.db.client import connect
from broker.db.errors import QueueFullError
from broker.events.hub import EventHub
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FAILURES, FailureCode
from jobs.lanes import Lane
from jobs.model import JobError, JobSpec, Usage
from jobs.states import JobState
from tests.integration.test_fair_queue import W, alive, limited, positions, take, take_all, waiting
from tests.integration.test_fair_queue import spec as any_spec
from tests.support import eventually

pytestmark = pytest.mark.asyncio


def spec(tenant: str = "a", **changes) -> JobSpec:
    return any_spec(tenant, **{"coalesce": "sum", **changes})


async def states(store: JobStore, ids: list[str]) -> list[str]:
    return [str(await store.client.hget(store.keys("job", job_id), "state")) for job_id in ids]


async def test_identical_requests_run_once(store: JobStore) -> None:
    await alive(store)
    leader = await store.accept(spec())
    follower = await store.accept(spec())
    other = await store.accept(spec("another"))
    assert (await store.get(follower.id)).coalesced_with == leader.id
    claim = await take(store)
    assert claim.id == leader.id
    late = await store.accept(spec())
    await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b'{"x":1}', usage=Usage(1, 2, 3))
    for job_id in (leader.id, follower.id, late.id):
        job = await store.get(job_id)
        assert (job.state, job.phase.usage) == (JobState.SUCCEEDED, Usage(1, 2, 3))
        stored = await store.result(job_id)
        assert (stored.status, stored.body) == (200, b'{"x":1}')
    assert (await store.get(follower.id)).coalesced_with == leader.id
    assert (await take(store)).id == other.id
    assert await take(store) is None
    assert (await store.get((await store.accept(spec())).id)).coalesced_with is None


@pytest_asyncio.fixture
async def hub(store: JobStore, broker_settings: BrokerSettings) -> AsyncIterator[EventHub]:
    hub = EventHub(store, connect(broker_settings.redis_url, text=False), "api-1")
    await hub.start()
    yield hub
    await hub.stop()


async def test_the_caller_of_a_follower_gets_the_result(store: JobStore, hub: EventHub) -> None:
    await alive(store)
    await store.accept(spec())
    claim = await take(store)
    follower = spec(sink="api-1")
    with hub.inbox(follower.id) as inbox:
        await store.accept(follower)
        waiter = asyncio.create_task(hub.ending(follower.id, inbox))
        await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=b'{"x":1}')
        ending = await asyncio.wait_for(waiter, 10)
    assert (ending.state, ending.status) == (JobState.SUCCEEDED, 200)
    ended = await hub.ended(follower.id)
    assert ended.result == b'{"x":1}'


async def test_a_result_is_stored_once_whoever_shares_it(store: JobStore) -> None:
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(60)]
    claim = await take(store)
    result = b'"' + b"x" * 100_000 + b'"'
    await store.finish(claim, W, JobState.SUCCEEDED, status=200, result=result)
    assert set(await states(store, ids)) == {"succeeded"}
    sizes = [await store.client.memory_usage(store.keys("job", job_id), samples=0) for job_id in ids]
    assert sum(sizes) < 2 * len(result)
    assert {(await store.result(job_id)).body for job_id in ids} == {result}


async def test_a_job_has_a_bounded_number_of_followers(store: JobStore) -> None:
    """One function ends them all; the next identical job runs beside it, and has followers of its own."""
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(250)]
    running = [await take(store) for _ in range(3)]
    assert await take(store) is None
    followers = [await store.client.scard(store.keys("followers", claim.id)) for claim in running]
    assert max(followers) == 100
    assert sum(followers) + len(running) == len(ids)
    for claim in running:
        await store.finish(claim, W, JobState.SUCCEEDED, result=b"{}")
    assert set(await states(store, ids)) == {"succeeded"}


async def test_followers_count_against_the_lane_and_the_tenant(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """Those of a queued job and those of a running one."""
    lane = JobStore(store.client, broker_settings.model_copy(update={"queue_max": 5}))
    tenant = JobStore(store.client, broker_settings.model_copy(update={"tenant_queue_max": 3}))
    await alive(store, capacity=1)
    leader = await store.accept(spec())
    assert (await take(store)).id == leader.id
    for _ in range(3):
        await tenant.accept(spec())
    with pytest.raises(QueueFullError) as refused:
        await tenant.accept(spec())
    assert (refused.value.depth, refused.value.tenant) == (3, "a")
    for _ in range(2):
        await lane.accept(spec())
    with pytest.raises(QueueFullError) as refused:
        await lane.accept(spec())
    assert (refused.value.depth, refused.value.tenant) == (5, None)
    assert await waiting(store) == 5
    (view,) = await store.queues(["default"])
    assert [(one.tenant, one.queued, one.active) for one in view.tenants] == [("a", 5, 1)]


@pytest.mark.parametrize("end", [JobState.CANCELLED, JobState.EXPIRED])
async def test_a_leader_that_is_stopped_leaves_its_followers_in_their_tenants_turns(
    store: JobStore, end: JobState
) -> None:
    await alive(store)
    leader = await store.accept(spec())
    claim = await take(store)
    followers = [(await store.accept(spec())).id for _ in range(3)]
    mine = await store.accept(spec(coalesce=None))
    others = [(await store.accept(spec("b", coalesce=None))).id for _ in range(4)]
    assert await store.cancel(followers.pop()) is JobState.CANCELLED
    await store.finish(claim, W, end)
    assert (await store.get(leader.id)).state is end
    first, second = sorted(followers)
    turns = [first, second, others[0], mine.id, *others[1:]]  # and its tenant has its turn back
    assert await positions(store, turns) == {job_id: place for place, job_id in enumerate(turns)}
    assert await take_all(store) == turns


async def test_a_cancelled_leader_that_waits_leaves_its_followers_in_their_turn(store: JobStore) -> None:
    await alive(store)
    leader = await store.accept(spec())
    between = await store.accept(spec(coalesce=None))
    followers = [(await store.accept(spec())).id for _ in range(2)]
    await store.cancel(leader.id)
    assert await take_all(store) == [between.id, *followers]


async def test_a_cancelled_follower_leaves_its_leader_alone(store: JobStore) -> None:
    await alive(store)
    leader = await store.accept(spec())
    waits, attached = await store.accept(spec()), None
    claim = await take(store)
    attached = await store.accept(spec())
    for follower in (waits, attached):
        assert await store.cancel(follower.id) is JobState.CANCELLED
    await store.finish(claim, W, JobState.SUCCEEDED, result=b"{}")
    assert await states(store, [leader.id, waits.id, attached.id]) == ["succeeded", "cancelled", "cancelled"]


async def test_a_leader_and_a_follower_that_expire_in_one_claim_leave_nothing(store: JobStore) -> None:
    await alive(store)
    ids = [(await store.accept(spec(queue_timeout_ms=1))).id for _ in range(3)]
    behind = await store.accept(spec())
    await eventually(lambda: asyncio.sleep(0.005, True))
    assert await take_all(store) == [behind.id]
    assert await states(store, ids) == ["expired"] * 3
    assert await waiting(store) == 0


async def test_followers_have_started_when_their_leader_has(store: JobStore) -> None:
    await alive(store)
    await store.accept(spec())
    early = await store.accept(spec(queue_timeout_ms=30_000))
    claim = await take(store)
    late = await store.accept(spec(queue_timeout_ms=30_000))
    assert not await store.client.exists(store.keys("deadlines"))  # which could end one of them
    await store.finish(claim, W, JobState.SUCCEEDED, result=b"{}")
    assert await states(store, [early.id, late.id]) == ["succeeded"] * 2


@pytest.mark.parametrize("code", [FailureCode.TIMEOUT, FailureCode.WORKER_LOST, FailureCode.INVALID_REQUEST])
async def test_a_follower_runs_where_its_leaders_failure_says_nothing_of_the_request(
    store: JobStore, code: FailureCode
) -> None:
    await alive(store)
    await store.accept(spec())
    follower = await store.accept(spec())
    claim = await take(store)
    error = JobError(code, "no")
    await store.finish(claim, W, JobState.FAILED, status=FAILURES[code].http_status, error=error)
    heir = await take(store)
    if code is FailureCode.INVALID_REQUEST:
        assert heir is None
        job = await store.get(follower.id)
        assert (job.state, job.phase.error) == (JobState.FAILED, error)
    else:
        assert heir is not None
        assert heir.id == follower.id


async def test_followers_wait_on_while_their_leader_is_tried_again(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    quick = await limited(store, broker_settings, retry_base_s=0.01)
    await alive(store)
    leader = await store.accept(spec())
    claim = await take(store)
    follower = await store.accept(spec())
    await store.release(claim, W, "released")
    assert (await store.get(follower.id)).phase.position == 0  # as its leader's
    claim = await take(store)
    assert claim.id == leader.id
    await quick.retry_later(claim, W, JobError(FailureCode.ENGINE_ERROR, "no"), 0.0, status=500)

    async def again() -> bool:
        await store.reap()
        return await waiting(store) == 2

    await eventually(again)
    assert await store.move(follower.id, Lane.HIGH) is JobState.QUEUED
    assert (await waiting(store, Lane.HIGH), await waiting(store)) == (1, 1)
    claim = await take(store)
    assert claim.id == leader.id
    await store.finish(claim, W, JobState.SUCCEEDED, result=b"{}")
    assert await states(store, [leader.id, follower.id]) == ["succeeded"] * 2


async def test_a_call_does_not_wait_for_an_identical_bulk_job_that_runs(store: JobStore) -> None:
    await alive(store)
    await store.accept(spec(lane=Lane.BULK))
    assert await take(store) is not None
    call = await store.accept(spec(lane=Lane.REALTIME))
    assert (await store.get(call.id)).coalesced_with is None
    claim = await take(store)
    assert claim is not None
    assert claim.id == call.id
