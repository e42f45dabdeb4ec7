"""Attempts that fail, time limits and repetitions, as the functions carry them out on a real server."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from broker.db.errors import NewerRecordError, UnfinishedError
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import Expired, Failed, JobError, JobSpec, Queued, Usage
from jobs.states import JobState
from tests.integration.test_transitions import W, alive, asking, claimed, read, spec, take, waiting
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

BROKEN = JobError(FailureCode.ENGINE_ERROR, "it broke")


@pytest.fixture
def quick(store: JobStore, broker_settings: BrokerSettings) -> JobStore:
    """The same store with short waits between attempts."""
    return JobStore(
        store.client, broker_settings.model_copy(update={"retry_base_s": 0.2, "retry_max_s": 0.4})
    )


async def until_due(store: JobStore) -> None:
    async def due() -> int:
        return (await store.reap()).due

    assert await eventually(due) == 1


async def test_a_failed_attempt_waits_for_its_turn(quick: JobStore) -> None:
    claim = await claimed(quick, stream=True)
    await quick.append([(claim.id, 1, 1, "ta")])
    assert await quick.retry_later(claim, W, BROKEN, 0.0, status=500) is JobState.QUEUED
    assert await quick.retry_later(claim, W, BROKEN, 0.0, status=500) is JobState.QUEUED  # sent twice
    job = await read(quick, claim.id)
    assert job.phase == Queued(None)
    assert job.not_before_ms is not None
    assert [a.reason for a in job.history] == [FailureCode.ENGINE_ERROR]
    assert 100 <= job.not_before_ms - job.history[0].ended_ms <= 200
    assert await waiting(quick) == 0
    assert await quick.claim(W) == []
    assert await quick.append([(claim.id, 1, 2, "tlate")]) == {claim.id}
    await until_due(quick)
    assert await waiting(quick) == 1
    assert (await read(quick, claim.id)).not_before_ms is None
    again = await take(quick)
    assert (again.id, again.attempt) == (claim.id, 2)
    assert await quick.finish(again, W, JobState.SUCCEEDED)


async def test_the_last_attempts_failure_is_the_jobs(quick: JobStore) -> None:
    claim = await claimed(quick, max_attempts=2)
    assert await quick.retry_later(claim, W, BROKEN, 0.0, status=500) is JobState.QUEUED
    await until_due(quick)
    again = await take(quick)
    done = await quick.retry_later(again, W, BROKEN, 0.0, status=500, result=b'{"error":{}}')
    assert done is JobState.FAILED
    assert (await read(quick, claim.id)).phase == Failed(BROKEN, 500)
    assert (await quick.result(claim.id)).body == b'{"error":{}}'


async def test_no_attempt_is_planned_behind_the_deadline(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    slow = JobStore(
        store.client, broker_settings.model_copy(update={"retry_base_s": 1000.0, "retry_max_s": 1000.0})
    )
    claim = await claimed(store, expires_in_ms=400_000)
    assert await slow.retry_later(claim, W, BROKEN, 0.5, status=500) is JobState.FAILED
    assert (await read(store, claim.id)).phase == Failed(BROKEN, 500)


async def test_a_delayed_job_can_be_cancelled_and_expires(store: JobStore) -> None:
    first = await claimed(store)
    await store.retry_later(first, W, BROKEN, 1.0, status=500)
    assert await store.cancel(first.id) is JobState.CANCELLED
    assert await store.client.zcard(store.keys("delayed")) == 0


async def test_a_delayed_job_that_is_moved_waits_on_and_runs_in_its_new_lane(quick: JobStore) -> None:
    claim = await claimed(quick)
    await quick.retry_later(claim, W, BROKEN, 1.0, status=500)
    assert await quick.move(claim.id, Lane.LOW) is JobState.QUEUED
    assert await quick.move(claim.id, top=True) is JobState.QUEUED
    assert (await waiting(quick), await waiting(quick, Lane.LOW)) == (0, 0)
    await until_due(quick)
    again = await take(quick)
    assert (again.id, again.lane) == (claim.id, Lane.LOW)


async def test_a_job_that_kills_engines_is_poisoned(store: JobStore) -> None:
    claim = await claimed(store, max_attempts=9)
    assert claim.kills == 0
    assert await store.release_from_dead_engine(claim, W, "it died") is JobState.QUEUED
    again = await take(store)
    assert again.kills == 1
    assert await store.release_from_dead_engine(again, W, "it died again") is JobState.FAILED
    job = await read(store, claim.id)
    assert job.phase == Failed(JobError(FailureCode.POISONED, "it died again"), 500)
    assert [a.reason for a in job.history] == [FailureCode.ENGINE_UNAVAILABLE]


async def test_an_engines_death_counts_as_an_attempt(store: JobStore) -> None:
    claim = await claimed(store, max_attempts=1)
    assert await store.release_from_dead_engine(claim, W, "it died") is JobState.FAILED
    expected = JobError(FailureCode.ENGINE_UNAVAILABLE, "it died")
    assert (await read(store, claim.id)).phase == Failed(expected, 503)


async def test_queue_timeout_counts_until_the_start_only(store: JobStore) -> None:
    await alive(store)
    started = await store.accept(spec(queue_timeout_ms=60_000, timeout_ms=7000))
    behind = await store.accept(spec(queue_timeout_ms=300, expires_in_ms=60_000))
    claim = await take(store)
    assert (claim.id, claim.timeout_ms) == (started.id, 7000)
    deadlines = await store.client.zrange(store.keys("deadlines"), 0, -1)
    assert deadlines == [behind.id]  # what has started has no other limit

    async def over() -> bool:
        await store.reap()
        return (await read(store, behind.id)).state.terminal

    await eventually(over)
    assert (await read(store, behind.id)).phase == Expired(in_queue=True)
    assert await store.claim(W) == []
    assert (await store.heartbeat(W)).orders == ()
    assert await store.finish(claim, W, JobState.SUCCEEDED)
    late = await store.accept(spec(queue_timeout_ms=1))
    await eventually(lambda: asyncio.sleep(0.01, True))
    assert await store.claim(W) == []
    assert (await read(store, late.id)).phase == Expired(in_queue=True)


async def test_the_whole_life_ends_a_job_that_has_started_in_time(store: JobStore) -> None:
    await alive(store)
    accepted = await store.accept(spec(queue_timeout_ms=30_000, expires_in_ms=60_000))
    await take(store)
    deadlines = store.keys("deadlines")
    assert await store.client.zscore(deadlines, accepted.id) == accepted.created_ms + 60_000
    await store.client.zadd(deadlines, {accepted.id: 1})  # a minute later

    async def told() -> tuple[tuple[str, str], ...]:
        await store.reap()
        return (await store.heartbeat(W)).orders

    assert await eventually(told) == ((accepted.id, "expired"),)


async def test_partial_responses_are_kept(store: JobStore) -> None:
    claim = await claimed(store)
    await store.finish(claim, W, JobState.CANCELLED, partial=b'{"half":1}', usage=Usage(3, 2, 5))
    stored = await store.result(claim.id)
    assert (stored.body, stored.partial) == (None, b'{"half":1}')
    assert (await read(store, claim.id)).phase.usage == Usage(3, 2, 5)


async def repeat(store: JobStore, job_id: str, **changes) -> JobSpec:
    again = await store.respec(job_id, new_id())
    assert again is not None
    return replace(again, **changes)


async def test_a_finished_job_is_repeated_once(store: JobStore) -> None:
    claim = await claimed(store, metadata={"a": "b"}, timeout_ms=5, expires_in_ms=60_000, lane=Lane.LOW)
    with pytest.raises(UnfinishedError):
        await store.accept(await repeat(store, claim.id))
    await store.finish(claim, W, JobState.FAILED, error=BROKEN)
    again = await repeat(store, claim.id)
    assert (again.body, again.lane, again.metadata, again.timeout_ms, again.expires_in_ms) == (
        claim.body,
        Lane.LOW,
        {"a": "b"},
        5,
        60_000,
    )
    first, second = await asyncio.gather(store.accept(again), store.accept(await repeat(store, claim.id)))
    assert first.id == second.id == again.id
    assert (first.replayed, second.replayed) == (False, True)
    old, new = await read(store, claim.id), await read(store, again.id)
    assert (old.retried_as, old.state, new.retry_of) == (new.id, JobState.FAILED, old.id)
    assert await waiting(store, Lane.LOW) == 1
    with pytest.raises(LookupError):
        await store.accept(spec(retry_of=new_id()))


async def test_the_dead_are_listed_until_they_are_repeated(store: JobStore) -> None:
    ids = []
    for code in (FailureCode.ENGINE_ERROR, FailureCode.TIMEOUT, FailureCode.ENGINE_ERROR):
        claim = await claimed(store, model=f"model of {code}")
        await store.finish(claim, W, JobState.FAILED, error=JobError(code, "x"))
        ids.append(claim.id)
    for end in (JobState.SUCCEEDED, JobState.CANCELLED):
        await store.finish(await claimed(store), W, end)
    expired = await claimed(store)
    await store.finish(expired, W, JobState.EXPIRED)
    assert {job.id for job in (await store.list_dead()).jobs} == {*ids, expired.id}
    assert {job.id for job in (await store.list_dead(code=FailureCode.ENGINE_ERROR)).jobs} == {ids[0], ids[2]}
    assert [job.id for job in (await store.list_dead(model="model of timeout")).jobs] == [ids[1]]
    page = await store.list_dead(limit=3)
    rest = await store.list_dead(limit=3, cursor=page.cursor)
    assert {job.id for job in (*page.jobs, *rest.jobs)} == {*ids, expired.id}
    await store.accept(await repeat(store, ids[0]))
    assert ids[0] not in {job.id for job in (await store.list_dead()).jobs}


async def test_a_worker_is_told_to_drain_with_every_heartbeat(store: JobStore) -> None:
    assert not await store.drain(W)
    await alive(store)
    assert await store.drain(W, 2.5)
    for _ in range(2):
        assert (await store.heartbeat(W)).orders == (("drain", "2.5"),)


async def test_a_newer_record_is_left_for_a_newer_worker(store: JobStore) -> None:
    await alive(store)
    accepted, behind = await store.accept(spec()), await store.accept(spec())
    await store.client.hset(store.keys("job", accepted.id), "v", 99)
    assert (await take(store)).id == behind.id
    assert await store.claim(W) == []
    with pytest.raises(NewerRecordError, match="version 99"):
        await store.get(accepted.id)
    newer, _ = await store.functions.submit(asking(version=99))
    assert [job.id for job in newer.jobs] == [accepted.id]
