"""Every transition as its function carries it out, on a real server."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from broker.claims import Claim
from broker.db.calls import attempts as calls
from broker.db.errors import IdempotencyConflictError, QueueFullError
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION, Failed, Job, JobError, JobSpec, Queued, Running, Succeeded, Usage
from jobs.states import TRANSITIONS, JobState
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

W = "worker-a"


def spec(**changes) -> JobSpec:
    return JobSpec(
        **{"id": new_id(), "endpoint": "/v1/completions", "model": "m", "body": b'{"prompt":"\xc3\xa9"}'}
        | changes
    )


async def read(store: JobStore, job_id: str) -> Job:
    job = await store.get(job_id)
    assert job is not None
    return job


async def claimed(store: JobStore, worker: str = W, **changes) -> Claim:
    await alive(store, worker)
    accepted = await store.accept(spec(**changes))
    claim = await take(store, worker)
    assert claim.id == accepted.id
    return claim


async def alive(store: JobStore, worker: str = W) -> None:
    await store.heartbeat(worker, first=True, info={"name": worker, "pool": "default", "capacity": 64})


async def take(store: JobStore, worker: str = W) -> Claim:
    """Take the next job; there is one."""
    (claim,) = await store.claim(worker)
    return claim


async def calls_so_far(store: JobStore) -> int:
    """Count the calls of functions that the server has carried out."""
    return (await store.client.info("commandstats"))["cmdstat_fcall"]["calls"]


async def waiting(store: JobStore, lane: Lane = Lane.NORMAL) -> int:
    return (await store.depths(["default"]))["default", lane]


async def test_accept_writes_record_place_and_indexes(store: JobStore) -> None:
    accepted = await store.accept(spec(metadata={"k": "ü"}, expires_in_ms=60_000))
    job = await read(store, accepted.id)
    assert (job.state, job.phase, job.attempt, dict(job.metadata)) == (
        JobState.QUEUED,
        Queued(0),
        0,
        {"k": "ü"},
    )
    assert job.expires_at_ms == accepted.created_ms + 60_000
    assert await waiting(store) == 1
    for filters in ({}, {"state": JobState.QUEUED}, {"model": "m"}):
        assert [j.id for j in (await store.list_jobs(**filters)).jobs] == [accepted.id]


async def test_accept_sent_twice_is_one_job(store: JobStore) -> None:
    one = spec()
    first, second = await asyncio.gather(store.accept(one), store.accept(one))
    assert first.created_ms == second.created_ms
    assert (first.replayed, second.replayed) == (False, False)
    assert await waiting(store) == 1


async def test_a_submission_whose_answer_was_lost_is_no_replay(store: JobStore) -> None:
    """The client library sends it again, with its idempotency key and the same id: its client used the key once."""
    one = spec(idempotency_key="k")
    told = [await store.accept(one) for _ in range(2)]
    assert [(answer.id, answer.replayed) for answer in told] == [(one.id, False)] * 2
    again = await store.accept(spec(idempotency_key="k"))
    assert (again.id, again.replayed) == (one.id, True)


async def test_idempotency_key_finds_the_job_or_refuses_another_body(store: JobStore) -> None:
    first = await store.accept(spec(idempotency_key="k"))
    again = await store.accept(spec(idempotency_key="k"))
    assert (again.id, again.replayed) == (first.id, True)
    with pytest.raises(IdempotencyConflictError) as refused:
        await store.accept(spec(idempotency_key="k", body=b"{}"))
    assert refused.value.job_id == first.id
    other = await store.accept(spec(idempotency_key="k", tenant="another"))
    assert other.id != first.id
    assert await waiting(store) == 2


async def test_the_key_of_a_call_that_did_not_start_in_time_is_free(store: JobStore) -> None:
    """The call was told to retry. The same call again is a new job, and only one. A job's key still finds the job."""
    keyed = {"idempotency_key": "k", "queue_timeout_ms": 1}
    first = await store.accept(spec(live=True, **keyed))
    await expired(store, first.id)
    found = await store.accept(spec(**keyed))
    assert (found.id, found.replayed) == (first.id, True)
    with pytest.raises(IdempotencyConflictError):
        await store.accept(spec(live=True, body=b"{}", **keyed))
    again = [await store.accept(spec(live=True, **keyed)) for _ in range(2)]
    assert [answer.replayed for answer in again] == [False, True]
    assert first.id != again[0].id == again[1].id


async def test_the_key_of_a_call_that_passed_its_deadline_is_not_free(store: JobStore) -> None:
    keyed = {"idempotency_key": "k", "live": True, "expires_in_ms": 1}
    first = await store.accept(spec(**keyed))
    await expired(store, first.id)
    again = await store.accept(spec(**keyed))
    assert (again.id, again.replayed) == (first.id, True)


async def expired(store: JobStore, job_id: str) -> None:
    """Have the reaper end a job whose time is over."""

    async def over() -> bool:
        await store.reap()
        return (await read(store, job_id)).state is JobState.EXPIRED

    await eventually(over)


async def test_full_lane_refuses_and_writes_nothing(store: JobStore, broker_settings: BrokerSettings) -> None:
    small = JobStore(store.client, broker_settings.model_copy(update={"queue_max": 2}))
    await small.accept(spec())
    await small.accept(spec())
    late = spec()
    with pytest.raises(QueueFullError) as refused:
        await small.accept(late)
    assert refused.value.depth == 2
    assert await store.get(late.id) is None
    await small.accept(spec(lane=Lane.HIGH))


async def test_positions_count_the_lanes_above(store: JobStore) -> None:
    await store.accept(spec(lane=Lane.REALTIME))
    low = await store.accept(spec(lane=Lane.LOW))
    assert (await read(store, low.id)).phase == Queued(1)
    await store.accept(spec(lane=Lane.NORMAL))
    assert (await read(store, low.id)).phase == Queued(2)


def asking(worker: str = W, **changes) -> calls.Claim:
    facts = {
        "worker": worker,
        "pool": "default",
        "room": 2,
        "bulk_room": 2,
        "suspects": 1,
        "token": "t1",
        "chunk_lanes": 5,
    }
    return calls.Claim(**{**facts, "version": SCHEMA_VERSION, "retention_ms": 60_000, **changes})


async def test_a_claim_whose_answer_was_lost_is_asked_for_again(store: JobStore) -> None:
    """Also after an outage, before its lease is prolonged: the jobs are its own, and it does not know."""
    await alive(store)
    ids = [(await store.accept(spec(body=b"%d" % n))).id for n in range(4)]
    first, blobs = await store.functions.submit(asking())
    assert [job.id for job in first.jobs] == ids[:2]
    await store.client.zadd(store.keys("leases"), {W: 1})
    again, same = await store.functions.submit(asking(again=True))
    assert [(job.id, job.attempt) for job in again.jobs] == [(job.id, 1) for job in first.jobs]
    assert same == blobs
    assert (await store.functions.call(asking(token="another"))).fenced
    assert (await store.functions.call(asking(token="another", again=True))).fenced
    await alive(store)
    assert [job.id for job in (await store.functions.call(asking(token="t2", again=True))).jobs] == ids[2:]
    assert await waiting(store) == 0


async def test_claim_gives_the_body_once(store: JobStore) -> None:
    claim = await claimed(store, lane=Lane.HIGH, stream=True)
    assert (claim.attempt, claim.body, claim.lane, claim.stream) == (
        1,
        b'{"prompt":"\xc3\xa9"}',
        Lane.HIGH,
        True,
    )
    assert (await read(store, claim.id)).phase == Running(W)
    assert await store.claim(W) == []


async def test_a_claim_fills_the_room_from_the_first_lanes_down(store: JobStore) -> None:
    await alive(store)
    lanes = [Lane.BULK, Lane.LOW, Lane.REALTIME, Lane.BULK, Lane.NORMAL, Lane.BULK]
    for lane in lanes:
        await store.accept(spec(lane=lane))
    got = await store.claim(W, room=5, bulk_room=1)
    assert [claim.lane for claim in got] == [Lane.REALTIME, Lane.NORMAL, Lane.LOW, Lane.BULK]
    assert await store.claim(W, room=5, bulk_room=0) == []
    assert len(await store.claim(W, room=5)) == 2


def chunk(**changes) -> JobSpec:
    return spec(endpoint=CHUNK_ENDPOINT, metadata={"batch": "batch_1", "chunk": "0"}, **changes)


async def test_a_chunk_that_a_worker_has_no_room_for_hinders_no_call_behind_it(store: JobStore) -> None:
    """Neither one of its own tenant, nor one of a tenant behind others who only wait with chunks."""
    await alive(store)
    for n in range(9):
        await store.accept(chunk(lane=Lane.NORMAL, tenant=f"t{n}"))
    for _ in range(20):
        await store.accept(chunk(lane=Lane.NORMAL, tenant="a"))
    calls = [(await store.accept(spec(lane=Lane.NORMAL, tenant=tenant))).id for tenant in ("a", "z")]
    got = await store.claim(W, room=5, chunk_lanes=Lane.NORMAL.place)
    assert {claim.id for claim in got} == set(calls)
    assert len(await store.claim(W, room=5, chunk_lanes=Lane.LOW.place)) == 1


async def test_the_room_for_bulk_is_the_room_for_its_chunks(store: JobStore) -> None:
    await alive(store)
    await store.accept(chunk(lane=Lane.BULK))
    assert await store.claim(W, room=5, bulk_room=0) == []
    assert len(await store.claim(W, room=5, bulk_room=1, chunk_lanes=0)) == 1


async def test_concurrent_claims_are_unique(store: JobStore) -> None:
    names = [f"w{n}" for n in range(8)]
    for name in names:
        await alive(store, name)
    ids = [(await store.accept(spec())).id for _ in range(50)]
    got = await asyncio.gather(*(store.claim(name, room=2) for _ in range(5) for name in names))
    assert sorted(claim.id for claims in got for claim in claims) == sorted(ids)


async def test_a_record_that_is_none_keeps_no_other_job_from_its_worker(store: JobStore) -> None:
    """It is passed by, in a turn and before all turns; the claims of the same call, and every count, are whole."""
    await alive(store)
    ids = [(await store.accept(spec(lane=lane))).id for lane in (Lane.HIGH, Lane.HIGH, Lane.LOW, Lane.LOW)]
    await store.move(ids[2], top=True)
    for job_id in (ids[1], ids[2]):
        await store.client.delete(store.keys("job", job_id))
        await store.client.set(store.keys("job", job_id), "a text")
    got = await store.claim(W, room=9)
    assert [claim.id for claim in got] == [ids[0], ids[3]]
    assert await store.client.smembers(store.keys("worker_jobs", W)) == {ids[0], ids[3]}
    assert (await waiting(store, Lane.HIGH), await waiting(store, Lane.LOW)) == (0, 0)
    for job_id in (ids[1], ids[2]):
        await store.client.delete(store.keys("job", job_id))
        for index in (store.keys("jobs"), store.keys("jobs_of", "default")):
            await store.client.zrem(index, job_id)


async def test_claim_without_a_lease_is_fenced(store: JobStore) -> None:
    accepted = await store.accept(spec())
    assert (await store.functions.call(asking("nobody"))).fenced
    assert await store.claim("nobody") == []
    assert (await read(store, accepted.id)).state is JobState.QUEUED


async def test_finish_stores_everything_and_starts_the_clock(store: JobStore) -> None:
    claim = await claimed(store)
    done = await store.finish(
        claim, W, JobState.SUCCEEDED, status=200, result=b'{"a":"\xc3\xa9"}', usage=Usage(1, 2, 3)
    )
    assert done
    job = await read(store, claim.id)
    assert job.phase == Succeeded(Usage(1, 2, 3), W)
    t = job.timings
    assert t.finished_ms >= t.started_ms >= t.queued_ms
    assert (await store.result(claim.id)).body == b'{"a":"\xc3\xa9"}'
    week_s = 604_800  # the reaper comes first
    assert 86_000 < await store.client.ttl(store.keys("job", claim.id)) - week_s <= 86_400
    assert await store.client.exists(store.keys("worker_jobs", W)) == 0


async def test_failure_keeps_code_and_message(store: JobStore) -> None:
    claim = await claimed(store)
    error = JobError(FailureCode.ENGINE_ERROR, 'it said "no"\n', "x")
    await store.finish(claim, W, JobState.FAILED, status=500, result=b"{}", error=error)
    assert (await read(store, claim.id)).phase == Failed(error, 500)


@pytest.mark.parametrize("end", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED])
async def test_terminal_states_never_change(store: JobStore, end: JobState) -> None:
    claim = await claimed(store, stream=True)
    assert await store.finish(claim, W, end)
    before = await store.client.hgetall(store.keys("job", claim.id))
    other = JobState.FAILED if end is JobState.SUCCEEDED else JobState.SUCCEEDED
    stale = Claim(claim.id, 2, claim.endpoint, True, claim.lane, claim.model, claim.body)
    assert not await store.finish(stale, W, other)
    assert not await store.release(stale, W, "released")
    assert await store.append([(claim.id, 1, 9, "tlate")]) == {claim.id}
    assert await store.cancel(claim.id) is end
    assert await store.claim(W) == []
    assert await store.client.hgetall(store.keys("job", claim.id)) == before


async def test_release_goes_to_the_head_and_costs_no_attempt(store: JobStore) -> None:
    claim = await claimed(store, max_attempts=1)
    behind = await store.accept(spec())
    assert await store.release(claim, W, "released") is JobState.QUEUED
    assert await store.release(claim, W, "released") is JobState.QUEUED  # sent twice
    job = await read(store, claim.id)
    assert (job.state, [a.reason for a in job.history]) == (JobState.QUEUED, ["released"])
    assert [(await store.look(job_id)).position for job_id in (claim.id, behind.id)] == [0, 1]
    again = await take(store)
    assert (again.id, again.attempt) == (claim.id, 2)
    assert not await store.finish(claim, W, JobState.SUCCEEDED)
    assert await store.finish(again, W, JobState.SUCCEEDED)


async def test_cancel_queued_is_immediate_and_leaves_nothing_to_claim(store: JobStore) -> None:
    await alive(store)
    accepted = await store.accept(spec())
    assert await store.cancel(accepted.id) is JobState.CANCELLED
    assert await store.cancel(accepted.id) is JobState.CANCELLED
    assert await store.claim(W) == []
    assert await store.cancel(new_id()) is None


async def test_cancel_running_tells_the_worker_until_the_job_ends(store: JobStore) -> None:
    claim = await claimed(store)
    assert await store.cancel(claim.id) is JobState.RUNNING
    assert (await read(store, claim.id)).cancel_requested
    for _ in range(2):
        assert (await store.heartbeat(W)).orders == ((claim.id, "cancelled"),)
    await store.finish(claim, W, JobState.CANCELLED)
    assert (await store.heartbeat(W)).orders == ()


async def test_release_of_a_cancelled_job_ends_it(store: JobStore) -> None:
    claim = await claimed(store)
    await store.cancel(claim.id)
    assert await store.release(claim, W, "released") is JobState.CANCELLED
    assert (await read(store, claim.id)).state is JobState.CANCELLED


async def test_append_is_fenced_ordered_and_idempotent(store: JobStore) -> None:
    claim = await claimed(store, stream=True)
    ghost = new_id()
    assert await store.append([(claim.id, 1, 1, "ta"), (ghost, 1, 1, "tx"), (claim.id, 2, 1, "tb")]) == {
        claim.id,
        ghost,
    }
    assert await store.append([(claim.id, 1, 1, "ta"), (claim.id, 1, 2, "tc")]) == frozenset()
    assert await store.log(claim.id, "1-0") == [("1-1", "ta"), ("1-2", "tc")]
    assert (await read(store, claim.id)).timings.first_token_ms is not None
    await store.finish(claim, W, JobState.SUCCEEDED, tail=[(3, "j{}")])
    kinds = [(eid, payload[0]) for eid, payload in await store.log(claim.id, "0-0")]
    assert kinds == [
        ("0-1", "s"),
        ("1-0", "s"),
        ("1-1", "t"),
        ("1-2", "t"),
        ("1-3", "j"),
        ("1-4294967295", "e"),
    ]
    assert await store.client.ttl(store.keys("log", claim.id)) > 0


async def test_expired_at_the_claim(store: JobStore) -> None:
    await alive(store)
    accepted = await store.accept(spec(expires_in_ms=1))
    behind = await store.accept(spec())
    await eventually(lambda: asyncio.sleep(0.005, True))
    assert (await take(store)).id == behind.id
    assert (await read(store, accepted.id)).state is JobState.EXPIRED


async def test_reaper_expires_queued_and_running(store: JobStore) -> None:
    claim = await claimed(store, expires_in_ms=60_000)
    queued = await store.accept(spec(expires_in_ms=50))
    await store.client.zadd(store.keys("deadlines"), {claim.id: 1})  # a minute later

    async def reaped() -> bool:
        await store.reap()
        return (await read(store, queued.id)).state is JobState.EXPIRED

    await eventually(reaped)
    assert (await store.heartbeat(W)).orders == ((claim.id, "expired"),)


async def test_lost_worker_gives_back_then_fails(store: JobStore) -> None:
    claim = await claimed(store, max_attempts=2)
    await store.bury(W)
    reaped = await store.reap()
    assert (reaped.requeued, reaped.requeued_ids, reaped.failed_ids) == (1, (claim.id,), ())
    assert (await read(store, claim.id)).history[0].reason == "worker_lost"
    assert (await store.heartbeat(W)).lost
    assert await store.claim(W) == []
    await alive(store, "worker-b")
    assert (await take(store, "worker-b")).id == claim.id
    assert not await store.finish(claim, W, JobState.SUCCEEDED)
    await store.bury("worker-b")
    reaped = await store.reap()
    assert (reaped.failed, reaped.requeued_ids, reaped.failed_ids) == (1, (), (claim.id,))
    job = await read(store, claim.id)
    assert isinstance(job.phase, Failed)
    assert job.phase.error.code is FailureCode.WORKER_LOST


async def test_a_reaper_names_a_few_of_many(store: JobStore) -> None:
    claims = {(await claimed(store)).id for _ in range(25)}
    await store.bury(W)
    reaped = await store.reap()
    assert (reaped.requeued, len(reaped.requeued_ids)) == (25, 20)
    assert set(reaped.requeued_ids) < claims


async def test_all_jobs_of_many_lost_workers_are_taken_back_in_the_order_of_their_creation(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """In several calls, each of bounded work; a round goes on with what else is due."""
    names, each = [f"w{n}" for n in range(17)], 256
    ids = []
    for _ in range(each):
        ids += [accepted.id for accepted in await asyncio.gather(*(store.accept(spec()) for _ in names))]
    rng = random.Random(1)
    for name in names:
        await alive(store, name)
    while got := await store.claim(rng.choice(names), room=64):
        assert len(got) > 0
    await store.accept(spec(expires_in_ms=1))
    ended = await store.accept(spec())
    await store.cancel(ended.id)
    for name in names:
        await store.bury(name)
    calls_before = await calls_so_far(store)
    brief = JobStore(store.client, broker_settings.model_copy(update={"retention_s": 0.001}))
    await eventually(lambda: asyncio.sleep(0.005, True))
    done = await brief.reap()
    assert (done.requeued, done.failed, done.expired) == (len(names) * each, 0, 1)
    assert done.retired >= 1
    assert await calls_so_far(store) - calls_before > 10
    assert await store.get(ended.id) is None
    await alive(store, "next")
    taken = []
    while got := await store.claim("next", room=100):
        taken += [claim.id for claim in got]
    index: Any = await store.client.zrange(store.keys("jobs"), 0, -1, withscores=True)
    created = dict(index)
    assert sorted(taken) == sorted(ids)
    assert [created[job_id] for job_id in taken] == sorted(created[job_id] for job_id in taken)
    assert {(await read(store, job_id)).attempt for job_id in taken[::100]} == {2}


async def test_expired_lease_is_reaped(store: JobStore) -> None:
    claim = await claimed(store)
    assert (await store.reap()).requeued == 0
    await _let_run_out(store, W)
    assert (await store.reap()).requeued == 1
    assert (await read(store, claim.id)).state is JobState.QUEUED


async def _let_run_out(store: JobStore, worker: str) -> None:
    """Have a worker's lease end a moment ago; the reaper's last round was before."""
    now_ms = await store.now_ms()
    await store.client.zadd(store.keys("leases"), {worker: now_ms - 50})
    await store.client.hset(store.keys("reaper"), "tick", now_ms - 600)


async def test_after_redis_was_away_a_lease_goes_on_for_its_workers_own_time(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """The settings of the reaper do not matter: 4 s without a round are little for 15 s, too much for 4 s."""
    brief = JobStore(store.client, broker_settings.model_copy(update={"lease_ttl_s": 4.0}))
    claim = await claimed(brief)
    await brief.heartbeat(W, info={"pool": "default"})
    await store.heartbeat("worker-b", first=True, info={"pool": "default"})
    long = await store.client.zscore(store.keys("leases"), "worker-b")
    await _let_run_out(store, W)
    await store.client.hset(store.keys("reaper"), "tick", await store.now_ms() - 4000)
    assert (await store.reap()).requeued == 0
    assert not (await brief.heartbeat(W)).lost
    assert await store.client.zscore(store.keys("leases"), "worker-b") == long
    await _let_run_out(store, W)
    assert (await store.reap()).requeued == 1
    assert (await read(store, claim.id)).state is JobState.QUEUED


async def test_records_leave_their_indexes(store: JobStore, broker_settings: BrokerSettings) -> None:
    brief = JobStore(store.client, broker_settings.model_copy(update={"retention_s": 0.05}))
    accepted = await brief.accept(spec(model="a model: x"))
    await brief.cancel(accepted.id)

    async def retired() -> int:
        return (await brief.reap()).retired

    assert await eventually(retired) == 1
    assert await store.get(accepted.id) is None
    assert await store.client.exists(store.keys("jobs"), store.keys("ended", "cancelled")) == 0


async def test_pages_hold_each_job_once_in_order(store: JobStore) -> None:
    ids = {(await store.accept(spec(model=m))).id for m in ("a", "b") for _ in range(30)}
    for newest_first in (True, False):
        seen: list[Job] = []
        cursor = None
        while True:
            page = await store.list_jobs(limit=7, cursor=cursor, newest_first=newest_first)
            seen += page.jobs
            cursor = page.cursor
            if cursor is None:
                break
        assert len(seen) == 60
        assert {j.id for j in seen} == ids
        keys = [(j.timings.queued_ms, j.id) for j in seen]
        assert keys == sorted(keys, reverse=newest_first)
    assert len((await store.list_jobs(model="a", state=JobState.QUEUED, limit=100)).jobs) == 30


async def test_order_is_kept_when_the_server_knows_no_function(store: JobStore) -> None:
    claim = await claimed(store, stream=True)
    await store.client.function_flush()
    refused, finished = await asyncio.gather(
        store.append([(claim.id, 1, 1, "ta")]), store.finish(claim, W, JobState.SUCCEEDED)
    )
    assert (refused, finished) == (frozenset(), True)


async def test_a_server_that_lost_the_library_gets_it_again(store: JobStore) -> None:
    accepted = await store.accept(spec())
    await store.client.function_flush()
    assert (await store.look(accepted.id)).position == 0
    await store.client.function_flush()
    await alive(store)
    assert await store.finish(await take(store), W, JobState.SUCCEEDED)


async def test_the_functions_know_the_transition_table(store: JobStore) -> None:
    """The table in jobs/ and what the functions did above are one: every target is reached from its source here."""
    seen: set[tuple[JobState, JobState]] = set()
    client: Any = store.client

    async def note(before: JobState, job_id: str) -> None:
        seen.add((before, JobState(await client.hget(store.keys("job", job_id), "state"))))

    for end in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED):
        claim = await claimed(store)
        await note(JobState.QUEUED, claim.id)
        await store.finish(claim, W, end)
        await note(JobState.RUNNING, claim.id)
    for end in (JobState.SUCCEEDED, JobState.FAILED):
        claim = await claimed(store, coalesce="sum")
        follower = await store.accept(spec(coalesce="sum"))
        await store.finish(claim, W, end)
        await note(JobState.QUEUED, follower.id)
    claim = await claimed(store)
    await store.release(claim, W, "released")
    await note(JobState.RUNNING, claim.id)
    await store.cancel(claim.id)
    await note(JobState.QUEUED, claim.id)
    short = await store.accept(spec(expires_in_ms=1))
    await eventually(lambda: asyncio.sleep(0.005, True))
    await store.reap()
    await note(JobState.QUEUED, short.id)
    assert seen == {(source, target) for (source, _), target in TRANSITIONS.items()}
