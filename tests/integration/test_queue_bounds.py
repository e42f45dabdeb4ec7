"""Bounds of the queue: of pools, tenants, lanes and bulk; reject mode; and estimates, which know of all of them."""

from __future__ import annotations

from collections import Counter

import pytest

from broker.db.errors import BusyError, InfeasibleError, QueueFullError
from broker.jobs import JobStore
from broker.registry import Runs
from broker.settings import BrokerSettings, TenantSettings
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.states import JobState
from tests.integration.test_fair_queue import W, alive, limited, spec, take, take_all, waiting
from tests.support import eventually

pytestmark = pytest.mark.asyncio


async def measured(store: JobStore, ms: float, **info: float) -> None:
    """Have a worker say how long its jobs ran in the mean."""
    said = {"name": f"{W}@host", "pool": "default", "capacity": 256, **info}
    await store.heartbeat(W, first=True, info=said, run=Runs(ms, 1), bulk_run=Runs(ms, 1))


async def start_of(store: JobStore, job: JobSpec) -> int | None:
    """Accept a job and return its estimated start."""
    _, foretold = await store.outlook("default", job.lane, job.tenant)
    accepted = await store.accept(job)
    found = await store.get(accepted.id)
    assert found is not None
    assert found.phase.eta_ms == foretold
    return foretold


async def test_an_estimate_knows_how_long_the_running_jobs_have_run(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    store = await limited(store, broker_settings, queue_max=1)
    await alive(store)
    await measured(store, 20.0, capacity=1, bulk_capacity=1)
    await store.accept(spec())
    await store.claim(W)
    await store.accept(spec())

    async def late() -> bool:
        return (await store.look_ahead("default", Lane.NORMAL, "a")).elapsed_ms[0] >= 300

    assert await eventually(late)
    _, eta_ms = await store.outlook("default", Lane.NORMAL, "a")
    assert eta_ms is not None
    assert eta_ms >= 600  # behind one that runs and one that waits
    with pytest.raises(QueueFullError) as refused:
        await store.accept(spec())
    assert refused.value.retry_ms >= 300


async def test_max_active_bounds_what_runs(store: JobStore, broker_settings: BrokerSettings) -> None:
    await limited(store, broker_settings, max_active=3)
    await alive(store)
    for _ in range(5):
        await store.accept(spec(lane=Lane.LOW))
    running = await store.claim(W, room=9)
    assert len(running) == 3
    urgent = await store.accept(spec(lane=Lane.REALTIME))
    assert await take(store) is None
    await store.finish(running[0], W, JobState.SUCCEEDED)
    claim = await take(store)
    assert claim is not None
    assert claim.id == urgent.id
    assert await take(store) is None
    for ended in (claim, running[1]):
        await store.finish(ended, W, JobState.SUCCEEDED)
    assert [claim.lane for claim in await store.claim(W, room=9)] == [Lane.LOW] * 2


async def test_a_tenants_bound_on_running_jobs(store: JobStore, broker_settings: BrokerSettings) -> None:
    await limited(store, broker_settings, tenants={"small": TenantSettings(max_active=2)})
    await alive(store)
    for tenant in ("small", "other"):
        for _ in range(4):
            await store.accept(spec(tenant))
    claims = await store.claim(W, room=9)
    assert Counter(claim.tenant for claim in claims) == {"small": 2, "other": 4}
    ended = next(claim for claim in claims if claim.tenant == "small")
    await store.finish(ended, W, JobState.SUCCEEDED)
    assert [claim.tenant for claim in await store.claim(W, room=9)] == ["small"]


async def test_a_raised_bound_lets_waiting_jobs_run(store: JobStore, broker_settings: BrokerSettings) -> None:
    await limited(store, broker_settings, tenant_max_active=1)
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(4)]
    assert await take_all(store) == ids[:1]
    await limited(store, broker_settings, tenant_max_active=3)
    assert await take_all(store) == ids[1:3]
    await limited(store, broker_settings)
    assert await take_all(store) == ids[3:]


async def test_a_job_that_was_given_back_waits_for_its_tenants_bound_and_is_its_first(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await limited(store, broker_settings, tenant_max_active=1)
    await alive(store)
    back = await store.accept(spec())
    claim = await take(store)
    others = [(await store.accept(spec())).id for _ in range(2)]
    await store.release(claim, W, "released")
    await store.move(others[1], Lane.HIGH)
    first = await take(store)
    assert first.id == others[1]
    elsewhere = await store.accept(spec("b"))
    assert await take_all(store) == [elsewhere.id]
    await store.finish(first, W, JobState.SUCCEEDED)
    again = await take(store)
    assert (again.id, again.attempt) == (back.id, 2)
    await store.finish(again, W, JobState.SUCCEEDED)
    assert await take_all(store) == others[:1]


async def test_jobs_of_a_tenant_at_its_bound_hide_none_behind_them(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await limited(store, broker_settings, tenant_max_active=1)
    await alive(store)
    await store.accept(spec())
    await take(store)
    others = [(await store.accept(spec())).id for _ in range(20)]
    free = await store.accept(spec("b"))
    for job_id in (free.id, *others):
        await store.move(job_id, top=True)
    for _ in range(4):
        await store.client.delete(store.keys("bell", "default"))
        if claim := await take(store):
            break
        assert await store.client.exists(store.keys("bell", "default")), "nobody would ask again"
    assert claim.id == free.id


async def test_a_job_moved_to_the_top_pays_once_though_its_tenant_is_at_its_bound(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await limited(store, broker_settings, tenant_max_active=1)
    await alive(store)
    await store.accept(spec())
    running = await take(store)
    await store.accept(spec())
    top = await store.accept(spec())

    async def turn() -> float:
        parked = await store.client.hget(store.keys("parked", "default"), "normal a")
        return float(parked or await store.client.zscore(store.keys("turns", "default", "normal"), "a"))

    before = await turn()
    for _ in range(2):
        await store.move(top.id, top=True)
    paid = await turn()
    assert paid > before
    assert await take(store) is None
    await store.finish(running, W, JobState.SUCCEEDED)
    assert (await take(store)).id == top.id
    assert await turn() == paid


async def test_a_tenants_bound_on_waiting_jobs(store: JobStore, broker_settings: BrokerSettings) -> None:
    bounded = await limited(store, broker_settings, tenant_queue_max=2)
    await bounded.accept(spec("a"))
    await bounded.accept(spec("a", lane=Lane.HIGH))
    with pytest.raises(QueueFullError) as refused:
        await bounded.accept(spec("a"))
    assert (refused.value.depth, refused.value.tenant) == (2, "a")
    await bounded.accept(spec("b"))


async def test_bulk_never_has_every_place_of_max_active(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await limited(store, broker_settings, max_active=4)
    await alive(store)
    for _ in range(6):
        await store.accept(spec(lane=Lane.BULK))
    running = await store.claim(W, room=9)
    assert len(running) == 3
    for _ in range(2):
        await store.accept(spec())
    assert [claim.lane for claim in await store.claim(W, room=9)] == [Lane.NORMAL]
    await store.finish(running[0], W, JobState.SUCCEEDED)
    claims = await store.claim(W, room=9)
    assert [claim.lane for claim in claims] == [Lane.NORMAL]  # and not a fourth bulk job


async def test_with_one_place_bulk_runs_and_an_interactive_job_beside_it(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    rejecting = await limited(store, broker_settings, max_active=1, queue_mode="reject")
    await alive(store)
    for _ in range(2):
        await store.accept(spec(lane=Lane.BULK))
    assert len(await take_all(store)) == 1
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
    assert len(await store.claim(W, room=9)) == 3
    for _ in range(3):
        await store.accept(spec(lane=Lane.LOW))
    call = await store.accept(spec(lane=Lane.REALTIME))
    claim = await take(store)
    assert claim is not None
    assert claim.id == call.id
    assert await store.claim(W, room=9) == []
    assert await store.client.hget(store.keys("active", "default"), "a") == "4"
    await store.finish(claim, W, JobState.SUCCEEDED)
    assert [claim.lane for claim in await store.claim(W, room=9)] == [Lane.LOW]


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


async def test_reject_mode_takes_what_fits_and_no_more(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    rejecting = await limited(store, broker_settings, queue_mode="reject")
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
    rejecting = await limited(store, broker_settings, queue_mode="reject", max_active=1)
    await alive(store)
    await rejecting.accept(spec())
    with pytest.raises(BusyError):
        await rejecting.accept(spec())


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
    patient = JobStore(store.client, broker_settings.model_copy(update={"queue_mode": "reject"}))
    await patient.accept(chunk)  # a promoted one waits its turn
    await store.cancel(chunk.id)

    claims = [await take(store), await take(store)]
    await alive(store, capacity=2, state="draining")
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
    bounded = JobStore(store.client, broker_settings.model_copy(update={"queue_max": 2}))
    await alive(store, capacity=8)
    for _ in range(10):
        await bounded.accept(spec())
    with pytest.raises(QueueFullError) as refused:
        await bounded.accept(spec())
    assert refused.value.depth == 10
    assert await take(store) is not None
    with pytest.raises(QueueFullError):  # it took the place of one that found one
        await bounded.accept(spec())


async def test_an_estimate_comes_from_what_was_measured(store: JobStore) -> None:
    await alive(store, capacity=1)
    assert await start_of(store, spec()) == 0
    assert await take(store) is not None
    assert await start_of(store, spec()) is None  # nothing has been measured yet
    await store.heartbeat(W, info={"name": W, "pool": "default", "capacity": 1}, run=Runs(400.0, 3))
    assert await start_of(store, spec()) == 800
    await store.heartbeat(W, info={"name": W, "pool": "default", "capacity": 1}, run=Runs(80.0, 32))
    assert await start_of(store, spec()) == 240  # as the last 32 runs were


async def test_estimates_know_the_bounds(store: JobStore, broker_settings: BrokerSettings) -> None:
    bounded = await limited(store, broker_settings, max_active=2, infeasible_deadline="refuse")
    await measured(store, 1000)
    assert [await start_of(store, spec()) for _ in range(4)] == [0, 0, 500, 1000]
    with pytest.raises(InfeasibleError):
        await bounded.accept(spec(queue_timeout_ms=1000))
    assert await start_of(store, spec(lane=Lane.BULK)) == 3000  # of two places bulk has one
    await store.pause("default", paused=True)
    assert await start_of(store, spec()) is None
    await store.pause("default", paused=False)


async def test_estimates_know_a_tenants_bound(store: JobStore, broker_settings: BrokerSettings) -> None:
    await limited(store, broker_settings, tenants={"one": TenantSettings(max_active=1)})
    await measured(store, 1000)
    assert [await start_of(store, spec("one")) for _ in range(4)] == [0, 1000, 2000, 3000]
    assert await start_of(store, spec("two")) == 0


async def test_bulks_estimate_knows_its_share_of_the_slots(store: JobStore) -> None:
    await measured(store, 600, capacity=8, bulk_capacity=6)
    told = [await start_of(store, spec(lane=Lane.BULK)) for _ in range(8)]
    assert told == [0] * 6 + [100, 200]


async def test_an_infeasible_deadline_is_refused_with_the_estimate(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    strict = await limited(store, broker_settings, infeasible_deadline="refuse")
    await measured(store, 50, capacity=1)
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


async def test_running_chunks_do_not_make_an_idle_pool_refuse_a_deadline(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """60 of two minutes run; there is room beside them, and calls take a second."""
    strict = await limited(store, broker_settings, infeasible_deadline="refuse")
    info = {"name": f"{W}@host", "pool": "default", "capacity": 64, "bulk_capacity": 60}
    await store.heartbeat(W, first=True, info=info, run=Runs(1000.0, 40), bulk_run=Runs(120_000.0, 60))
    for n in range(60):
        facts = {"endpoint": CHUNK_ENDPOINT, "metadata": {"batch": "batch_1"}, "answers": 50}
        await store.accept(spec(f"t{n % 3}", lane=Lane.BULK, **facts))
    while await store.claim(W, room=1):
        pass
    assert await store.client.hget(store.keys("pool", "default"), "bulk") == "60"
    with pytest.raises(InfeasibleError) as refused:  # a further chunk has to wait for one of them
        await strict.accept(spec(lane=Lane.BULK, queue_timeout_ms=1000))
    assert refused.value.estimate_ms == 2000
    accepted = await strict.accept(spec(expires_in_ms=60_000))
    assert (await store.get(accepted.id)).phase.eta_ms == 0


async def test_waiting_counts_by_lane(store: JobStore) -> None:
    for lane in (Lane.LOW, Lane.LOW, Lane.BULK):
        await store.accept(spec(lane=lane))
    assert [await waiting(store, lane) for lane in Lane] == [0, 0, 0, 2, 1]
