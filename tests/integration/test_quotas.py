"""Quotas on a real server: by the minute against a plain model, reserved and settled, by the day, and nothing twice."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from fractions import Fraction

import pytest

from broker.claims import Claim
from broker.db.errors import OverQuotaError
from broker.jobs import JobStore
from broker.large_bodies import Stored
from broker.tenants import DAY_MS, TenantStore
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError, JobSpec, Usage
from jobs.states import JobState
from tests.integration.test_fair_queue import W, alive, spec, take

pytestmark = pytest.mark.asyncio

MINUTE = 60_000
BROKEN = JobError(FailureCode.ENGINE_ERROR, "no")


@pytest.fixture
def tenants(store: JobStore) -> TenantStore:
    return TenantStore(store)


def job(prompt: int = 10, most: int | None = 20, **changes) -> JobSpec:
    return spec(prompt_tokens=prompt, max_tokens=most, **changes)


async def left(store: JobStore) -> tuple[int, int]:
    """Submit a job, and return what is left of its tenant's requests and tokens of a minute."""
    rates = (await store.accept(job(tenant="a"))).rates
    assert rates
    return rates.requests.remaining, rates.tokens.remaining


async def used(tenants: TenantStore) -> int:
    return (await tenants.used("a")).tokens_today


async def end(store: JobStore, claim: Claim, state: JobState, usage: Usage | None) -> None:
    error = BROKEN if state is JobState.FAILED else None
    assert await store.finish(claim, W, state, usage=usage, error=error)


@dataclass
class Bucket:
    """A plain model of a quota by the minute: it fills at a constant rate up to its limit. Half a unit is for rounding."""

    limit: int
    level: Fraction
    at: int

    def turn(self, at: int, amount: int) -> bool:
        """Take so much at a time, if it is there."""
        self.level = min(Fraction(self.limit), self.level + Fraction((at - self.at) * self.limit, MINUTE))
        self.at = at
        if amount > self.level + Fraction(1, 2):
            return False
        self.level -= amount
        return True


@pytest.mark.parametrize("seed", range(4))
async def test_the_minute_is_a_bucket_that_fills_evenly(
    store: JobStore, tenants: TenantStore, seed: int
) -> None:
    rng, of_requests = random.Random(seed), seed % 2 == 1
    limit = rng.choice([50, 100, 200] if of_requests else [6_000, 60_000, 600_000])
    await tenants.change("a", {"requests_per_minute" if of_requests else "tokens_per_minute": limit})
    bucket, verdicts = None, set()
    for _ in range(250):
        most = rng.randrange(max(1, limit // 20))
        at, accepted = await tell(store, job(1, most))
        bucket = bucket or Bucket(limit, Fraction(limit), at)
        assert bucket.turn(at, 1 if of_requests else 1 + most) == accepted
        verdicts.add(accepted)
    assert verdicts == {True, False}


async def tell(store: JobStore, given: JobSpec) -> tuple[int, bool]:
    """Submit a job; return the server's time, and whether it was accepted."""
    answer = await store._accept(given, "", Stored(given.body), None)
    assert answer.kind in {"accepted", "over_quota"}
    return answer.at, answer.kind == "accepted"


async def test_a_minute_s_requests_may_come_at_once_and_no_more(
    store: JobStore, tenants: TenantStore
) -> None:
    await tenants.change("a", {"requests_per_minute": 3})
    for remaining in (2, 1, 0):
        rates = (await store.accept(spec())).rates
        assert rates
        assert (rates.requests.limit, rates.requests.remaining, rates.tokens) == (3, remaining, None)
    with pytest.raises(OverQuotaError) as refused:
        await store.accept(spec())
    assert (refused.value.over, refused.value.most) == ("requests", 3)
    assert 0 < refused.value.wait_ms <= 20_000
    assert refused.value.rates.requests.remaining == 0
    assert (await store.accept(spec("b"))).rates is None  # another tenant has no quota


async def test_what_was_reserved_is_settled_to_what_was_used(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"requests_per_minute": 100, "tokens_per_minute": 1000, "tokens_per_day": 1000})
    await alive(store)
    rates = (await store.accept(job(10, 20, answers=3))).rates
    assert rates.tokens.remaining in {930, 931}
    assert await used(tenants) == 70
    await end(store, await take(store), JobState.SUCCEEDED, Usage(10, 5, 15))
    assert await used(tenants) == 15
    assert 1000 - 15 - 30 <= (await left(store))[1] <= 1000


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
async def test_a_job_that_used_nothing_gives_all_back(
    store: JobStore, tenants: TenantStore, state: JobState
) -> None:
    await tenants.change("a", {"tokens_per_day": 1000})
    await alive(store)
    accepted = await store.accept(job(tenant="a"))
    assert await used(tenants) == 30
    if state is JobState.CANCELLED:
        await store.cancel(accepted.id)
        await store.cancel(accepted.id)
    else:
        await end(store, await take(store), state, None)
    assert await used(tenants) == 0


async def test_a_failure_with_usage_pays_for_it(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"tokens_per_day": 1000})
    await alive(store)
    await store.accept(job())
    await end(store, await take(store), JobState.FAILED, Usage(10, 3, 13))
    assert await used(tenants) == 13


async def test_a_success_that_states_no_usage_keeps_its_reservation(
    store: JobStore, tenants: TenantStore
) -> None:
    await tenants.change("a", {"tokens_per_day": 1000})
    await alive(store)
    await store.accept(job())
    await end(store, await take(store), JobState.SUCCEEDED, None)
    assert await used(tenants) == 30


async def test_without_max_tokens_the_running_mean_is_reserved(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"tokens_per_day": 1000})
    await alive(store)
    await store.accept(job(10, None))
    assert await used(tenants) == 10 + 128
    await end(store, await take(store), JobState.SUCCEEDED, Usage(10, 40, 50))
    await store.accept(job(10, None))
    assert await used(tenants) == 50 + 10 + 40


async def test_a_lost_attempt_reserves_nothing_anew_and_settles_once(
    store: JobStore, tenants: TenantStore
) -> None:
    await tenants.change("a", {"tokens_per_day": 1000})
    await alive(store)
    await store.accept(job())
    first = await take(store)
    await store.bury(W)
    await store.reap()
    await alive(store, worker="worker-b")
    (second,) = await store.claim("worker-b")
    assert (second.id, second.attempt, await used(tenants)) == (first.id, 2, 30)
    assert not await store.finish(first, W, JobState.SUCCEEDED, usage=Usage(10, 1, 11))
    for _ in range(2):  # the client library sends it twice
        await store.finish(second, "worker-b", JobState.SUCCEEDED, usage=Usage(10, 2, 12))
    assert await used(tenants) == 12


async def test_every_attempt_lost_gives_all_back(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"tokens_per_day": 1000})
    await alive(store)
    await store.accept(job(max_attempts=1))
    await take(store)
    await store.bury(W)
    await store.reap()
    assert await used(tenants) == 0


async def test_a_submission_that_is_sent_twice_counts_once(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"requests_per_minute": 3, "tokens_per_day": 1000})
    given = job(idempotency_key="k")
    first = await store.accept(given)
    again = await store.accept(given)
    other = await store.accept(job(idempotency_key="k"))
    assert first.id == again.id == other.id
    assert again.rates.requests.remaining == other.rates.requests.remaining == 2
    assert await used(tenants) == 30


async def test_who_follows_an_identical_job_reserves_nothing(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"requests_per_minute": 3, "tokens_per_day": 1000})
    await alive(store)
    await store.accept(job(coalesce="same"))
    follower = await store.accept(job(coalesce="same"))
    assert (await used(tenants), follower.rates.requests.remaining) == (30, 1)
    await end(store, await take(store), JobState.SUCCEEDED, Usage(10, 2, 12))
    assert (await store.get(follower.id)).state is JobState.SUCCEEDED
    assert await used(tenants) == 12


async def test_a_follower_that_must_run_itself_pays_for_itself(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"tokens_per_day": 1000})
    await alive(store)
    await store.accept(job(coalesce="same"))
    await store.accept(job(coalesce="same"))
    leader = await take(store)
    timeout = JobError(FailureCode.TIMEOUT, "late")
    assert await store.finish(leader, W, JobState.FAILED, error=timeout)
    await end(store, await take(store), JobState.SUCCEEDED, Usage(10, 2, 12))
    assert await used(tenants) == 12


async def test_the_day_is_over_when_its_tokens_are(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"tokens_per_day": 50})
    await store.accept(job())
    with pytest.raises(OverQuotaError) as refused:
        await store.accept(job())
    assert (refused.value.over, refused.value.most, refused.value.wait_ms) == ("day", 50, None)
    await store.accept(job(10, 10))
    yesterday = await store.now_ms() // DAY_MS - 1
    await store.client.hset(store.keys("quota", "a"), "day", yesterday)
    await store.accept(job())
    assert await used(tenants) == 30


async def test_what_never_fits_into_a_minute_says_so(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"tokens_per_minute": 25})
    with pytest.raises(OverQuotaError) as refused:
        await store.accept(job())
    assert (refused.value.over, refused.value.asked, refused.value.wait_ms) == ("tokens", 30, None)


async def test_a_refused_job_takes_nothing(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"requests_per_minute": 100, "tokens_per_day": 1000, "queue_max": 1})
    await store.accept(job())
    results = await asyncio.gather(*(store.accept(job()) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(one, Exception) for one in results)
    assert await used(tenants) == 30


async def test_chunks_of_batches_are_no_requests(store: JobStore, tenants: TenantStore) -> None:
    await tenants.change("a", {"requests_per_minute": 1, "tokens_per_day": 1})
    for _ in range(2):
        chunk = spec(endpoint=CHUNK_ENDPOINT, metadata={"batch": "b"}, lane=Lane.BULK)
        assert (await store.accept(chunk)).rates is None
    assert await used(tenants) == 0


@pytest.mark.parametrize("seed", range(3))
async def test_giving_back_never_makes_more_than_a_minute_s_worth(
    store: JobStore, tenants: TenantStore, seed: int
) -> None:
    """Beside it runs a minute that knew from the start what each job would use; ours may never be ahead of that."""
    rng = random.Random(seed)
    limit = 60_000_000  # 1000 tokens a millisecond
    await tenants.change("a", {"tokens_per_minute": limit})
    await alive(store)
    history: list[tuple[int, int]] = []
    running: list[tuple[Claim, int]] = []
    for _ in range(120):
        if rng.random() < 0.6:
            reserved = rng.randrange(2, 200_000)
            accepted = await store.accept(job(1, reserved - 1))
            spent = rng.randrange(reserved + 1)
            history.append((accepted.created_ms, spent))
            running.append((await take(store), spent))
        elif running:
            claim, spent = running.pop(rng.randrange(len(running)))
            await end(store, claim, JobState.SUCCEEDED, Usage(1, spent - 1, spent))
    for claim, spent in running:
        await end(store, claim, JobState.SUCCEEDED, Usage(1, spent - 1, spent))
    ideal = 0.0
    for at, spent in history:
        ideal = max(ideal, at) + spent * MINUTE / limit
    now = await store.now_ms()
    ours = float(await store.client.hget(store.keys("quota", "a"), "t"))
    assert max(ours, now) >= max(ideal, now) - 0.01
