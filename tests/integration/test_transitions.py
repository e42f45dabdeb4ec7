"""Every transition as its script carries it out, on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.attempts import Claim, Dropped
from broker.db.errors import IdempotencyConflictError, QueueFullError
from broker.jobs import JobStore
from broker.settings import BrokerSettings
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
    await store.heartbeat(worker, first=True, info={"name": worker})
    accepted = await store.accept(spec(**changes))
    claim = await store.claim(accepted.id, worker)
    assert isinstance(claim, Claim)
    return claim


async def messages(store: JobStore, lane: Lane = Lane.NORMAL) -> int:
    return await store.client.llen(store.keys("queue", "default", lane))


async def test_accept_writes_record_message_and_indexes(store: JobStore) -> None:
    accepted = await store.accept(spec(metadata={"k": "ü"}, expires_in_ms=60_000))
    job = await read(store, accepted.id)
    assert (job.state, job.phase, job.attempt, dict(job.metadata)) == (
        JobState.QUEUED,
        Queued(0),
        0,
        {"k": "ü"},
    )
    assert job.expires_at_ms == accepted.created_ms + 60_000
    assert await messages(store) == 1
    for filters in ({}, {"state": JobState.QUEUED}, {"model": "m"}):
        assert [j.id for j in (await store.list_jobs(**filters)).jobs] == [accepted.id]


async def test_accept_sent_twice_is_one_job(store: JobStore) -> None:
    one = spec()
    first, second = await asyncio.gather(store.accept(one), store.accept(one))
    assert first.created_ms == second.created_ms
    assert await messages(store) == 1


async def test_idempotency_key_finds_the_job_or_refuses_another_body(store: JobStore) -> None:
    first = await store.accept(spec(idempotency_key="k"))
    again = await store.accept(spec(idempotency_key="k"))
    assert (again.id, again.replayed) == (first.id, True)
    with pytest.raises(IdempotencyConflictError) as refused:
        await store.accept(spec(idempotency_key="k", body=b"{}"))
    assert refused.value.job_id == first.id
    other = await store.accept(spec(idempotency_key="k", tenant="another"))
    assert other.id != first.id
    assert await messages(store) == 2


async def test_full_lane_refuses_and_writes_nothing(store: JobStore, broker_settings: BrokerSettings) -> None:
    small = JobStore(store.client, broker_settings.model_copy(update={"queue_max": 2}))
    await small.accept(spec())
    await small.accept(spec())
    late = spec()
    with pytest.raises(QueueFullError) as refused:
        await small.accept(late)
    assert refused.value.depth == 2
    assert await store.get(late.id) is None
    assert (await small.accept(spec(lane=Lane.HIGH))).position == 0


async def test_positions_count_the_lanes_above(store: JobStore) -> None:
    await store.accept(spec(lane=Lane.REALTIME))
    low = await store.accept(spec(lane=Lane.LOW))
    assert low.position == 1
    await store.accept(spec(lane=Lane.NORMAL))
    assert (await read(store, low.id)).phase == Queued(2)


async def test_a_claim_whose_answer_was_lost_is_still_this_workers_after_an_outage(store: JobStore) -> None:
    """It asks again before its lease is prolonged: were it refused, the job would be its own, and it would not know."""
    await store.heartbeat(W, first=True, info={"name": W})
    accepted = await store.accept(spec())
    ask = ("job/claim", accepted.id, W, 60_000, "token", SCHEMA_VERSION)
    assert (await store.scripts.call(*ask))[:2] == ["run", 1]
    await store.client.zadd(store.keys("workers"), {W: 1})
    assert (await store.scripts.call(*ask))[:2] == ["run", 1]
    assert (await store.scripts.call(*ask[:4], "another", SCHEMA_VERSION))[0] == "drop"
    ask = ("job/claim", (await store.accept(spec())).id, *ask[2:])
    assert await store.scripts.call(*ask) == ["drop", "fenced"]


async def test_claim_gives_the_body_once(store: JobStore) -> None:
    claim = await claimed(store, lane=Lane.HIGH, stream=True)
    assert (claim.attempt, claim.body, claim.lane, claim.stream) == (
        1,
        b'{"prompt":"\xc3\xa9"}',
        Lane.HIGH,
        True,
    )
    assert (await read(store, claim.id)).phase == Running(W)
    assert await store.claim(claim.id, W) == Dropped("running")
    assert await store.claim(new_id(), W) == Dropped("gone")


async def test_concurrent_claims_are_unique(store: JobStore) -> None:
    names = [f"w{n}" for n in range(8)]
    for name in names:
        await store.heartbeat(name, first=True)
    ids = [(await store.accept(spec())).id for _ in range(50)]
    got = await asyncio.gather(*(store.claim(i, name) for i in ids for name in names))
    assert sorted(c.id for c in got if isinstance(c, Claim)) == sorted(ids)


async def test_claim_without_a_lease_is_fenced(store: JobStore) -> None:
    accepted = await store.accept(spec())
    assert await store.claim(accepted.id, "nobody") == Dropped("fenced")
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
    assert 86_000 < await store.client.ttl(store.keys("job", claim.id)) <= 86_400
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
    assert await store.claim(claim.id, W) == Dropped(end)
    assert await store.client.hgetall(store.keys("job", claim.id)) == before


async def test_release_goes_to_the_head_and_costs_no_attempt(store: JobStore) -> None:
    claim = await claimed(store, max_attempts=1)
    waiting = await store.accept(spec())
    assert await store.release(claim, W, "released") is JobState.QUEUED
    assert await store.release(claim, W, "released") is JobState.QUEUED  # sent twice
    job = await read(store, claim.id)
    assert (job.state, [a.reason for a in job.history]) == (JobState.QUEUED, ["released"])
    head = await store.client.lindex(store.keys("queue", "default", Lane.NORMAL), -1)
    assert claim.id in head
    assert waiting.id not in head
    again = await store.claim(claim.id, W)
    assert isinstance(again, Claim)
    assert again.attempt == 2
    assert not await store.finish(claim, W, JobState.SUCCEEDED)
    assert await store.finish(again, W, JobState.SUCCEEDED)


async def test_cancel_queued_is_immediate_and_its_message_gives_nothing(store: JobStore) -> None:
    await store.heartbeat(W, first=True)
    accepted = await store.accept(spec())
    assert await store.cancel(accepted.id) is JobState.CANCELLED
    assert await store.cancel(accepted.id) is JobState.CANCELLED
    assert await store.claim(accepted.id, W) == Dropped("cancelled")
    assert await store.cancel(new_id()) is None


async def test_cancel_running_tells_the_worker_until_the_job_ends(store: JobStore) -> None:
    claim = await claimed(store)
    assert await store.cancel(claim.id) is JobState.RUNNING
    assert (await read(store, claim.id)).cancel_requested
    assert await store.heartbeat(W) == {claim.id: "cancelled"}
    assert await store.heartbeat(W) == {claim.id: "cancelled"}
    await store.finish(claim, W, JobState.CANCELLED)
    assert await store.heartbeat(W) == {}


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
    await store.heartbeat(W, first=True)
    accepted = await store.accept(spec(expires_in_ms=1))
    await eventually(lambda: asyncio.sleep(0.005, True))
    assert await store.claim(accepted.id, W) == Dropped("expired")
    assert (await read(store, accepted.id)).state is JobState.EXPIRED


async def test_reaper_expires_queued_and_running(store: JobStore) -> None:
    claim = await claimed(store, expires_in_ms=50)
    queued = await store.accept(spec(expires_in_ms=50))

    async def reaped() -> bool:
        await store.reap()
        return (await read(store, queued.id)).state is JobState.EXPIRED

    await eventually(reaped)
    assert await store.heartbeat(W) == {claim.id: "expired"}


async def test_lost_worker_gives_back_then_fails(store: JobStore) -> None:
    claim = await claimed(store, max_attempts=2)
    await store.bury(W)
    reaped = await store.reap()
    assert (reaped.requeued, reaped.requeued_ids, reaped.failed_ids) == (1, (claim.id,), ())
    assert (await read(store, claim.id)).history[0].reason == "worker_lost"
    assert await store.heartbeat(W) is None
    second = await store.claim(claim.id, W)
    assert second == Dropped("fenced")
    await store.heartbeat("worker-b", first=True)
    assert isinstance(await store.claim(claim.id, "worker-b"), Claim)
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


async def test_expired_lease_is_reaped(store: JobStore, broker_settings: BrokerSettings) -> None:
    brief = JobStore(store.client, broker_settings.model_copy(update={"lease_ttl_s": 0.1}))
    claim = await claimed(brief)

    async def requeued() -> int:
        return (await brief.reap()).requeued

    assert await eventually(requeued) == 1
    assert (await read(store, claim.id)).state is JobState.QUEUED


async def test_after_redis_was_away_a_lease_goes_on_for_its_workers_own_time(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """The settings of the reaper do not matter: 4 s without a round are little for 15 s, too much for 0.3 s."""
    brief = JobStore(store.client, broker_settings.model_copy(update={"lease_ttl_s": 0.3}))
    claim = await claimed(brief)
    await brief.heartbeat(W, info={"pool": "default"})
    await store.heartbeat("worker-b", first=True, info={"pool": "default"})
    long = await store.client.zscore(store.keys("workers"), "worker-b")
    await asyncio.sleep(0.35)  # past the lease
    now_s, _ = await store.client.time()
    await store.client.hset(store.keys("reaper"), "tick", (now_s - 4) * 1000)
    assert (await store.reap()).requeued == 0
    assert await brief.heartbeat(W) == {}
    assert await store.client.zscore(store.keys("workers"), "worker-b") == long
    await asyncio.sleep(0.35)
    assert (await store.reap()).requeued == 1
    assert (await read(store, claim.id)).state is JobState.QUEUED


async def test_lost_message_is_pushed_again(store: JobStore, broker_settings: BrokerSettings) -> None:
    brief = JobStore(store.client, broker_settings.model_copy(update={"requeue_grace_s": 0.05}))
    accepted = await store.accept(spec())
    await store.client.delete(store.keys("queue", "default", Lane.NORMAL))

    async def repushed() -> int:
        return (await brief.reap()).repushed

    assert await eventually(repushed) == 1
    assert await messages(store) == 1
    await store.heartbeat(W, first=True)
    assert isinstance(await store.claim(accepted.id, W), Claim)


async def test_waiting_jobs_are_not_taken_for_lost(store: JobStore, broker_settings: BrokerSettings) -> None:
    brief = JobStore(store.client, broker_settings.model_copy(update={"requeue_grace_s": 0.01}))
    for _ in range(3):
        await store.accept(spec())
    await eventually(lambda: asyncio.sleep(0.05, True))
    assert (await brief.reap()).repushed == 0


async def test_records_leave_their_indexes(store: JobStore, broker_settings: BrokerSettings) -> None:
    brief = JobStore(store.client, broker_settings.model_copy(update={"retention_s": 0.05}))
    accepted = await brief.accept(spec(model="a model: x"))
    await brief.cancel(accepted.id)

    async def retired() -> int:
        return (await brief.reap()).retired

    assert await eventually(retired) == 1
    assert await store.get(accepted.id) is None
    for key in ("jobs", "retire"):
        assert await store.client.exists(store.keys(key)) == 0
    assert await store.client.exists(store.keys("by_state", "cancelled")) == 0
    assert await store.client.exists(store.keys("by_model", "a model: x")) == 0


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


async def test_order_is_kept_when_the_server_knows_no_script(store: JobStore) -> None:
    claim = await claimed(store, stream=True)
    await store.client.script_flush()
    await store.cancel(new_id())  # one script is loaded again, and the others with it
    refused, finished = await asyncio.gather(
        store.append([(claim.id, 1, 1, "ta")]), store.finish(claim, W, JobState.SUCCEEDED)
    )
    assert (refused, finished) == (frozenset(), True)


async def test_scripts_survive_a_script_flush(store: JobStore) -> None:
    await store.accept(spec())
    await store.client.script_flush()
    claim = await claimed(store)
    assert await store.finish(claim, W, JobState.SUCCEEDED)


async def test_the_scripts_know_the_transition_table(store: JobStore) -> None:
    """The table in jobs/ and what the scripts did above are one: every target is reached from its source here."""
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
