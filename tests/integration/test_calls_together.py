"""Calls of one function that share a command: each has its own reply, and all together write what each alone would."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from broker.acceptance import Accepted
from broker.db.calls.base import TOGETHER
from broker.db.errors import OverQuotaError, StoreFaultError
from broker.jobs import JobStore
from broker.tenants import TenantStore
from broker.usage import Tally
from jobs.model import JobSpec, Usage
from jobs.states import JobState
from tests.integration.test_fair_queue import W, alive, spec
from tests.integration.test_usage import tallies

pytestmark = pytest.mark.asyncio

COUNT = 40


def job(tenant: str = "a", **changes) -> JobSpec:
    return spec(tenant, prompt_tokens=10, max_tokens=20, **changes)


async def sent(store: JobStore) -> int:
    """Return how many functions were called at this server."""
    return (await store.client.info("commandstats")).get("cmdstat_fcall", {}).get("calls", 0)


async def accept_all(store: JobStore, jobs: list[JobSpec]) -> list[Accepted | BaseException]:
    return await asyncio.gather(*map(store.accept, jobs), return_exceptions=True)


def left(answers: list[Accepted | BaseException], quota: str) -> list[int]:
    """Return what was left of a quota after each job that was accepted."""
    return [getattr(one.rates, quota).remaining for one in answers if isinstance(one, Accepted)]


async def test_what_a_quota_lets_through_is_let_through_and_no_more(store: JobStore) -> None:
    tenants = TenantStore(store)
    await tenants.change("a", {"requests_per_minute": 30, "tokens_per_day": 600})
    await tenants.change("b", {"tokens_per_minute": 300})
    before = await sent(store)
    answers = await accept_all(store, [job("a" if number % 2 else "b") for number in range(2 * COUNT)])
    assert await sent(store) - before == 2 * COUNT // TOGETHER
    b, a = answers[::2], answers[1::2]
    assert [one.rates.requests.remaining for one in a if not isinstance(one, Exception)] == [
        *range(29, 9, -1)
    ]
    assert [one.rates.tokens.remaining for one in b if not isinstance(one, Exception)] == [
        *range(270, -1, -30)
    ]
    assert Counter(one.over for one in answers if isinstance(one, OverQuotaError)) == {
        "day": 20,
        "tokens": 30,
    }
    assert (await tenants.used("a")).tokens_today == 600
    assert await store.client.hkeys(store.keys("quota", "b")) == ["t"]


async def test_what_jobs_used_is_counted_and_settled_once_each(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants = TenantStore(store)
    await tenants.change("a", {"tokens_per_minute": 100_000, "tokens_per_day": 100_000})
    await alive(store)
    await accept_all(store, [job(key=f"key{number % 3}") for number in range(COUNT)])
    claims = await store.claim(W, room=COUNT)
    before = await sent(store)
    ends = (
        store.finish(claim, W, JobState.SUCCEEDED, usage=Usage(10, number, 10 + number), device_us=1000)
        for number, claim in enumerate(claims)
    )
    assert await asyncio.gather(*ends) == [True] * COUNT
    assert await sent(store) - before == -(-COUNT // TOGETHER)
    completion = sum(range(COUNT))
    assert (await tenants.used("a")).tokens_today == COUNT * 10 + completion
    total = sum((await tallies(store)).values(), Tally())
    assert (total.requests, total.prompt, total.completion) == (COUNT, COUNT * 10, completion)
    assert total.device_us == COUNT * 1000


async def test_jobs_that_identical_ones_may_have_joined_end_by_themselves(store: JobStore) -> None:
    await alive(store)
    await accept_all(store, [job(coalesce=f"sum{number % 4}") for number in range(8)])
    await accept_all(store, [job() for _ in range(4)])
    claims = await store.claim(W, room=COUNT)
    assert sorted(claim.leads for claim in claims) == [False] * 4 + [True] * 4
    claims.sort(key=lambda claim: claim.leads)
    before = await sent(store)
    ends = (store.finish(claim, W, JobState.SUCCEEDED, usage=Usage(1, 1, 2)) for claim in claims)
    assert await asyncio.gather(*ends) == [True] * 8
    assert await sent(store) - before == 1 + 4
    assert sum((await tallies(store)).values(), Tally()).requests == 12


async def test_one_that_fails_does_no_harm_to_the_others(store: JobStore) -> None:
    await TenantStore(store).change("a", {"tokens_per_day": 100_000})
    await alive(store)
    await accept_all(store, [job() for _ in range(5)])
    claims = await store.claim(W, room=5)
    spoiled = store.keys("job", claims[2].id)
    await store.client.rename(spoiled, "aside")
    await store.client.set(spoiled, "not what it was")
    ends = (store.finish(claim, W, JobState.SUCCEEDED, usage=Usage(1, 1, 2)) for claim in claims)
    first, second, failed, *rest = await asyncio.gather(*ends, return_exceptions=True)
    assert [first, second, *rest] == [True] * 4
    assert isinstance(failed, StoreFaultError)
    assert "WRONGTYPE" in str(failed)
    total = sum((await tallies(store)).values(), Tally())
    assert (total.requests, total.prompt) == (4, 4)
    await store.client.rename("aside", spoiled)
    assert await store.finish(claims[2], W, JobState.SUCCEEDED, usage=Usage(1, 1, 2))


async def test_a_wrong_type_is_the_fault_of_one_call(store: JobStore) -> None:
    await alive(store)
    good, bad = store._call_for(job(), ""), store._call_for(job(), "")
    bad.tokens = "many"  # type: ignore[assignment]
    first, second = (store.functions.submit(one, b"{}", b"{}") for one in (bad, good))
    with pytest.raises(StoreFaultError, match="bad call of accept: tokens must be a number, not a string"):
        await first
    assert (await second)[0].kind == "accepted"


async def test_a_server_without_the_library_gets_it_and_all_calls_again(store: JobStore) -> None:
    await store.client.function_flush()
    answers = await accept_all(store, [job() for _ in range(3)])
    assert [one for one in answers if isinstance(one, Exception)] == []
