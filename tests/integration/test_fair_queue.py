"""The fair queue on a real server: turns in tokens and in jobs, shares by weight, and positions that are exact."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from broker.claims import Claim
from broker.jobs import JobStore
from broker.settings import BrokerSettings, TenantSettings
from broker.tenants import TenantStore
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError, JobSpec, Queued, Usage
from jobs.states import JobState
from jobs.tenants import Tenant
from tests.support import new_id

pytestmark = pytest.mark.asyncio

W = "worker-a"


def spec(tenant: str = "a", **changes) -> JobSpec:
    facts = {"id": new_id(), "endpoint": "/v1/completions", "model": "m", "body": b"{}", "tenant": tenant}
    return JobSpec(**facts | changes)


async def limited(store: JobStore, settings: BrokerSettings, **changes) -> JobStore:
    """Return a store with these settings, whose limits hold for all."""
    tenants: dict[str, TenantSettings] = changes.pop("tenants", {})
    bounded = JobStore(store.client, settings.model_copy(update=changes))
    await bounded.set_limits()
    await set_tenants(bounded, tenants)
    return bounded


async def set_tenants(store: JobStore, tenants: dict[str, TenantSettings]) -> None:
    """Have these tenants, and no other, have records."""
    records = TenantStore(store)
    for name in await records.names():
        if name not in tenants:
            await records.reset(name)
    for name, tenant in tenants.items():
        await records.put(
            Tenant(name, weight=tenant.weight, queue_max=tenant.queue_max, max_active=tenant.max_active)
        )


async def alive(store: JobStore, capacity: int = 1000, worker: str = W, **info: Any) -> None:
    said = {"name": f"{worker}@host", "pool": "default", "capacity": capacity, **info}
    await store.heartbeat(worker, first=True, info=said)


async def take(store: JobStore, worker: str = W) -> Claim | None:
    """Claim the next job; None: there is none for this worker."""
    claims = await store.claim(worker)
    return claims[0] if claims else None


async def take_all(store: JobStore) -> list[str]:
    """Claim one after the other, to the last, and return their ids."""
    taken = []
    while claim := await take(store):
        taken.append(claim.id)
    return taken


async def tenants_in_order(store: JobStore, count: int) -> list[str]:
    """Take so many jobs one after the other, and say whose they were."""
    seen: list[str] = []
    while len(seen) < count and (claim := await take(store)):
        seen.append(claim.tenant)
    return seen


async def waiting(store: JobStore, lane: Lane = Lane.NORMAL) -> int:
    return (await store.depths(["default"]))["default", lane]


async def positions(store: JobStore, ids: list[str]) -> dict[str, int | None]:
    """Return the positions of those of these jobs that are queued."""
    looks = await asyncio.gather(*(store.get(job_id) for job_id in ids))
    return {job.id: job.phase.position for job in looks if job is not None and isinstance(job.phase, Queued)}


async def test_one_tenants_flood_delays_anothers_job_by_one_turn_at_most(store: JobStore) -> None:
    await alive(store)
    await asyncio.gather(*(store.accept(spec("flood")) for _ in range(500)))
    await tenants_in_order(store, 7)
    single = await store.accept(spec("single"))
    assert (await store.look(single.id)).position in {0, 1}
    assert "single" in await tenants_in_order(store, 2)


async def test_shares_follow_the_weights(store: JobStore, broker_settings: BrokerSettings) -> None:
    tenants = {"heavy": TenantSettings(weight=3), "light": TenantSettings(weight=1)}
    await limited(store, broker_settings, tenants=tenants)
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
    ids = [(await store.accept(spec("a", body=b"x" * (n % 7) * 40))).id for n in range(96)]
    for _ in range(10):
        await store.accept(spec("b"))
    assert [job for job in await take_all(store) if job in set(ids)] == ids


class Backlogs:
    """Jobs of some tenants, of random cost, in random lanes."""

    def __init__(self, store: JobStore, rng: random.Random) -> None:
        self.store = store
        self.rng = rng
        self.ids: list[str] = []

    async def fill(self, count: int, lanes: list[Lane]) -> None:
        for _ in range(count):
            body = b"x" * 4 * self.rng.randrange(700)
            limit = self.rng.choice([None, 16, 100])
            lane = self.rng.choice(lanes)
            job = spec(self.rng.choice("abcde"), body=body, max_tokens=limit, lane=lane)
            self.ids.append((await self.store.accept(job)).id)

    async def work(self, steps: int) -> None:
        """Some jobs run: they end with more or less than was thought, fail, are given back, or run on."""
        for _ in range(steps):
            claim = await take(self.store)
            assert claim is not None
            match self.rng.randrange(4):
                case 0:
                    used = Usage(self.rng.randrange(900), self.rng.randrange(900), 0)
                    await self.store.finish(claim, W, JobState.SUCCEEDED, usage=used)
                case 1:
                    error = JobError(FailureCode.ENGINE_ERROR, "no")
                    await self.store.finish(claim, W, JobState.FAILED, error=error)
                case 2:
                    await self.store.release(claim, W, "released")

    async def pass_over(self) -> None:
        """A worker takes what is behind some jobs that it cannot read."""
        records = [self.store.keys("job", job_id) for job_id in self.rng.sample(self.ids, 12)]
        newer = [key for key in records if await self.store.client.hget(key, "state") == "queued"]
        for key in newer:
            await self.store.client.hset(key, "v", 99)
        for _ in range(10):
            await take(self.store)
        for key in newer:
            await self.store.client.hdel(key, "v")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("turns", ["tokens", "jobs"])
async def test_positions_are_exact(
    store: JobStore, broker_settings: BrokerSettings, turns: str, seed: int
) -> None:
    """Whatever has happened before, the jobs are claimed in the order that was told."""
    tenants = {
        "b": TenantSettings(weight=2.5),
        "c": TenantSettings(weight=3),
        "d": TenantSettings(weight=0.3),
    }
    await limited(store, broker_settings, tenants=tenants, turns=turns)
    await alive(store)
    backlogs = Backlogs(store, random.Random(seed))
    await backlogs.fill(40, [Lane.NORMAL])
    await backlogs.work(20)
    await backlogs.fill(60, [Lane.HIGH, Lane.NORMAL, Lane.NORMAL, Lane.BULK])
    for _ in range(10):
        await store.cancel(backlogs.rng.choice(backlogs.ids))
    await backlogs.pass_over()
    for _ in range(3):
        await store.move(backlogs.rng.choice(backlogs.ids), top=True)
        await store.move(backlogs.rng.choice(backlogs.ids), Lane.NORMAL)
    told = await positions(store, backlogs.ids)
    assert sorted(told.values()) == list(range(len(told)))
    taken = await take_all(store)
    assert told == {job_id: place for place, job_id in enumerate(taken)}


async def test_a_new_job_gets_the_position_that_was_foretold(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    await limited(store, broker_settings, tenants={"b": TenantSettings(weight=2.5)})
    await alive(store, capacity=3)
    rng = random.Random(3)
    for n in range(60):
        tenant, lane = rng.choice("abc"), rng.choice([Lane.NORMAL, Lane.LOW])
        told = await store.outlook("default", lane, tenant)
        accepted = await store.accept(spec(tenant, lane=lane, body=b"x" * rng.randrange(3000)))
        job = await store.get(accepted.id)
        assert job is not None
        assert job.phase == Queued(*told)
        if n % 3 == 0:
            await take(store)


async def test_cancelled_jobs_leave_their_place_to_the_next(store: JobStore) -> None:
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(64)]
    for job_id in ids[:32]:
        assert await store.cancel(job_id) is JobState.CANCELLED
    assert await waiting(store) == 32
    assert await positions(store, ids) == {job_id: place for place, job_id in enumerate(ids[32:])}
    assert await take_all(store) == ids[32:]


async def test_a_cancelled_job_leaves_no_gap_in_a_long_line(store: JobStore) -> None:
    jobs = {tenant: [spec(tenant) for _ in range(620)] for tenant in "ab"}
    await asyncio.gather(*(store.accept(job) for line in jobs.values() for job in line))
    await store.cancel(jobs["a"][310].id)
    told = [(await store.look(jobs["a"][n].id)).position for n in (309, 311, 619)]
    assert told == [618, 620, 1236]


async def test_jobs_at_the_top_stand_where_their_positions_say(store: JobStore) -> None:
    await alive(store)
    ids = [(await store.accept(spec())).id for _ in range(6)]
    for job_id in (ids[4], ids[2], ids[5]):
        await store.move(job_id, top=True)
    expected = [ids[5], ids[2], ids[4], ids[0], ids[1], ids[3]]
    assert await positions(store, ids) == {job_id: place for place, job_id in enumerate(expected)}
    assert await take_all(store) == expected


async def test_an_estimate_is_the_prompt_and_the_mean_of_each_answer(store: JobStore) -> None:
    await alive(store)

    async def cost(**changes) -> int:
        job_id = (await store.accept(spec(**changes))).id
        told = await store.client.hget(store.keys("job", job_id), "cost")
        assert (await take(store)).id == job_id
        return int(told)

    assert await cost(prompt_tokens=10) == 138  # nothing was measured yet
    assert await cost(body=b"x" * 400, max_tokens=50) == 150
    await store.accept(spec(answers=4, prompt_tokens=1))
    claim = await take(store)
    await store.finish(claim, W, JobState.SUCCEEDED, usage=Usage(1, 400, 401))
    assert await cost(prompt_tokens=10) == 110
    assert await cost(prompt_tokens=10, answers=4) == 410
    assert await cost(prompt_tokens=10, answers=4, max_tokens=20) == 90
    assert await cost(tenant="another", prompt_tokens=10) == 110  # as the model's answers to all


class Engines:
    """Slots that run jobs to their end, in simulated time: one token of an answer in one step.

    Args:
        sizes: draws a job's prompt and completion tokens, by tenant. Each tenant always has some jobs that wait.
        slots: jobs at once.
    """

    def __init__(
        self, store: JobStore, sizes: dict[str, Callable[[], tuple[int, int]]], slots: int = 8
    ) -> None:
        self.store = store
        self.sizes = sizes
        self.slots = slots
        self.due: list[tuple[int, str, tuple[Claim, Usage]]] = []
        self.now = 0
        self.served: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    async def fill(self, tenants: str | None = None) -> None:
        short = [
            tenant
            for tenant in (self.sizes if tenants is None else tenants)
            for _ in range(self.slots - self.left[tenant])
        ]
        self.left.update(short)
        await asyncio.gather(*(self.store.accept(spec(tenant, body=b"x" * 40)) for tenant in short))

    async def run(self, tokens: int, tenants: str | None = None) -> None:
        """Serve so many tokens more."""
        goal = self.served.total() + tokens
        while self.served.total() < goal:
            await self.fill(tenants)
            for claim in await self.store.claim(W, room=self.slots - len(self.due)):
                self.left[claim.tenant] -= 1
                prompt, completion = self.sizes[claim.tenant]()
                usage = Usage(prompt, completion, prompt + completion)
                heapq.heappush(self.due, (self.now + completion, claim.id, (claim, usage)))
            self.now, _, (claim, usage) = heapq.heappop(self.due)
            self.served[claim.tenant] += usage.total_tokens
            self.ended[claim.tenant] += 1
            await self.store.finish(claim, W, JobState.SUCCEEDED, usage=usage)


def few_long_and_many_short(rng: random.Random) -> dict[str, Callable[[], tuple[int, int]]]:
    """Nothing at the submission tells how long they are: a request is 40 bytes, and the answers vary by a factor of nine."""
    return {
        "l": lambda: (rng.randrange(100, 300), rng.randrange(200, 1800)),
        "s": lambda: (rng.randrange(10, 30), rng.randrange(20, 180)),
    }


@pytest.mark.parametrize("weight", [1, 3])
async def test_shares_of_tokens_follow_the_weights_whatever_the_jobs_are(
    store: JobStore, broker_settings: BrokerSettings, weight: int
) -> None:
    await limited(store, broker_settings, tenants={"l": TenantSettings(weight=weight)})
    await alive(store)
    engines = Engines(store, few_long_and_many_short(random.Random(weight)))
    await engines.run(20_000)
    before = Counter(engines.served)
    await engines.run(120_000)
    served = engines.served - before
    assert served["l"] / served.total() == pytest.approx(weight / (weight + 1), abs=0.05)


async def test_turns_in_jobs_share_numbers_of_jobs(store: JobStore, broker_settings: BrokerSettings) -> None:
    await limited(store, broker_settings, turns="jobs", tenants={"s": TenantSettings(weight=2)})
    await alive(store)
    engines = Engines(store, few_long_and_many_short(random.Random(1)))
    await engines.run(100_000)
    assert engines.ended["s"] / engines.ended.total() == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize("away", ["l", "s"])
async def test_a_tenant_that_comes_back_has_no_hoarded_lead(store: JobStore, away: str) -> None:
    """And the other has no debt for what it got in the meantime."""
    await alive(store)
    engines = Engines(store, few_long_and_many_short(random.Random(1)))
    await engines.run(20_000)
    there = {"l": "s", "s": "l"}[away]
    await engines.run(60_000, there)
    before = Counter(engines.served)
    await engines.run(60_000)
    served = engines.served - before
    assert served[away] / served.total() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("end", ["failed", "cancelled", "lost"])
async def test_a_job_that_ends_without_usage_costs_nothing(
    store: JobStore, broker_settings: BrokerSettings, end: str
) -> None:
    await alive(store)
    for tenant in "aab":
        await store.accept(spec(tenant, max_attempts=1))
    claim = await take(store)
    turns = store.keys("turns", "default", "normal")
    assert claim.tenant == "a"
    assert await store.client.zscore(turns, "a") > 0
    if end == "failed":
        await store.retry_later(claim, W, JobError(FailureCode.ENGINE_ERROR, "no"), 0.0, status=500)
    elif end == "cancelled":
        await store.cancel(claim.id)
        await store.release(claim, W, "released")
    else:
        await store.bury(W)
        await store.reap()
    assert (await store.get(claim.id)).state.terminal
    assert await store.client.zscore(turns, "a") == 0


async def test_what_was_paid_in_vain_before_the_lane_was_empty_is_no_lead(store: JobStore) -> None:
    """Fifty jobs that were thought to be long end at once: their tenant is ahead by one of them, not by all."""
    await alive(store)
    for _ in range(50):
        await store.accept(spec("a", prompt_tokens=1000))
    running = await store.claim(W, room=50)
    for tenant in ("a", "b"):
        for _ in range(60):
            await store.accept(spec(tenant, prompt_tokens=0))
    for claim in running:
        await store.finish(claim, W, JobState.SUCCEEDED, usage=Usage(1, 1, 2))
    served = await tenants_in_order(store, 40)
    assert 12 <= served.count("b") <= 20
