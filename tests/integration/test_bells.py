"""The bells on which idle workers sleep: no one sleeps while work that it may take waits, and one job wakes one worker."""

from __future__ import annotations

import asyncio

import pytest

from broker.claims import Claim
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError, JobSpec
from jobs.states import JobState
from tests.integration.test_fair_queue import W, alive, limited, spec, take
from tests.integration.test_transitions import asking
from tests.support import eventually

pytestmark = pytest.mark.asyncio


async def rings(store: JobStore) -> tuple[bool, bool]:
    """Take what the bells of the pool and of its bulk hold."""
    taken = [await store.client.lpop(store.keys(name, "default"), 9) for name in ("bell", "bulk_bell")]
    assert all(one is None or len(one) == 1 for one in taken)
    return taken[0] is not None, taken[1] is not None


@pytest.mark.parametrize("lane", list(Lane))
async def test_a_submission_rings_once_however_many_wait(store: JobStore, lane: Lane) -> None:
    for _ in range(3):
        await store.accept(spec(lane=lane))
    assert await rings(store) == (lane is not Lane.BULK, lane is Lane.BULK)
    assert await rings(store) == (False, False)


async def test_who_leaves_work_rings_on(store: JobStore) -> None:
    await alive(store)
    for lane in (Lane.NORMAL, Lane.NORMAL, Lane.BULK):
        await store.accept(spec(lane=lane))
    await rings(store)
    for expected in ((True, True), (False, True), (False, False)):
        assert await take(store) is not None
        assert await rings(store) == expected
    assert await take(store) is None
    assert await rings(store) == (False, False)


@pytest.mark.parametrize("lane", [Lane.NORMAL, Lane.BULK])
async def test_who_takes_the_last_job_silences_the_bell_that_rang_for_it(store: JobStore, lane: Lane) -> None:
    """A worker that heard another bell, as its own, or needed none. The next sleeper would wake for nothing."""
    await alive(store)
    await store.accept(spec(lane=lane))
    assert await take(store) is not None
    assert await rings(store) == (False, False)


async def test_who_may_not_take_what_it_finds_rings_on(store: JobStore) -> None:
    """For a suspect of an engine's death, a record of a later version, bulk; and who has no lease any more."""
    await alive(store)
    await alive(store, worker="other")
    await store.accept(spec(max_attempts=9))
    claim = await take(store)
    await store.release_from_dead_engine(claim, W, "boom")
    await rings(store)
    assert (await store.functions.call(asking(suspects=0))).jobs == ()
    assert await rings(store) == (True, False)
    await store.client.hset(store.keys("job", claim.id), "back", await store.now_ms() - 1000)
    assert (await store.functions.call(asking(suspects=0))).jobs == ()
    assert await rings(store) == (False, False)  # all were rung for; to ring on would wake them for ever
    await store.bury("other")
    assert (await store.functions.call(asking("other"))).fenced
    assert await rings(store) == (True, False)
    (again,) = await store.claim(W)
    await store.finish(again, W, JobState.SUCCEEDED)
    later = await store.accept(spec())
    await store.client.hset(store.keys("job", later.id), "v", 99)
    await rings(store)
    assert await take(store) is None
    assert await rings(store) == (True, False)
    await store.cancel(later.id)
    await store.accept(spec(lane=Lane.BULK))
    await rings(store)
    assert await store.claim(W, bulk_room=0) == []
    assert await rings(store) == (False, True)


async def test_whatever_makes_work_claimable_rings(store: JobStore, broker_settings: BrokerSettings) -> None:
    await alive(store)

    async def claimed(**changes) -> Claim | None:
        await store.accept(spec(**changes))
        claim = await take(store)
        await rings(store)
        return claim

    claim = await claimed()
    await store.release(claim, W, "released")
    assert await rings(store) == (True, False)
    claim = await take(store)
    await store.disown(W, [claim.id])
    assert await rings(store) == (True, False)
    await store.move(claim.id, Lane.BULK)
    assert await rings(store) == (False, True)
    await store.move(claim.id, Lane.LOW, top=True)
    await rings(store)
    await store.pause("default", paused=True)
    assert await take(store) is None
    await store.pause("default", paused=False)
    assert await rings(store) == (True, False)
    quick = JobStore(store.client, broker_settings.model_copy(update={"retry_base_s": 0.001}))
    claim = await take(store)
    await quick.retry_later(claim, W, JobError(FailureCode.ENGINE_ERROR, "no"), 0.0, status=500)
    assert await rings(store) == (False, False)

    async def due() -> int:
        return (await store.reap()).due

    await eventually(due)
    assert await rings(store) == (True, False)
    await take(store)
    await store.bury(W)
    await store.reap()
    assert await rings(store) == (True, False)


async def test_a_job_behind_one_that_is_passed_over_comes_whole(store: JobStore) -> None:
    await alive(store)
    first, second = spec(), spec(body=b'{"second": 1}')
    await store.accept(first)
    await store.accept(second)
    await store.client.hset(store.keys("job", first.id), "v", 99)
    (claim,) = await store.claim(W, room=2)
    assert (claim.id, claim.body, claim.model) == (second.id, second.body, second.model)


@pytest.mark.parametrize("limits", [{"max_active": 1}, {"tenant_max_active": 1}])
async def test_a_place_that_is_free_again_rings(
    store: JobStore, broker_settings: BrokerSettings, limits: dict[str, int]
) -> None:
    await limited(store, broker_settings, **limits)
    await alive(store)
    for _ in range(2):
        await store.accept(spec())
    claim = await take(store)
    assert await take(store) is None
    await rings(store)
    await store.finish(claim, W, JobState.SUCCEEDED)
    assert await rings(store) == (True, False)
    assert await take(store) is not None
    await store.accept(spec())
    assert await take(store) is None
    await rings(store)
    await limited(store, broker_settings)
    assert await rings(store) == (True, False)


class Sleeper:
    """A worker with one slot that sleeps on its bell, and runs what it finds."""

    def __init__(self, store: JobStore, settings: BrokerSettings, name: str) -> None:
        self.store = store
        self.client = connect(settings.redis_url)
        self.name = name
        self.woken = 0
        self.ran = 0
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        await alive(self.store, worker=self.name)
        while True:
            if await self.client.blpop([self.store.keys("bell", "default")], timeout=1) is None:
                continue
            self.woken += 1
            while claims := await self.store.claim(self.name):
                self.ran += 1
                await self.store.finish(claims[0], self.name, JobState.SUCCEEDED)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.client.aclose()


async def test_one_job_wakes_one_of_many_workers_and_many_jobs_wake_all_that_are_needed(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    workers = [Sleeper(store, broker_settings, f"w{n}") for n in range(20)]

    async def asleep() -> bool:
        said = await store.client.client_list()
        return sum(one["cmd"] == "blpop" for one in said) >= len(workers)

    try:
        await eventually(asleep)
        jobs: list[JobSpec] = []
        for count in range(1, 6):
            jobs.append(spec())
            await store.accept(jobs[-1])
            await eventually(lambda: sum(worker.ran for worker in workers) == len(jobs))
            await eventually(asleep)
            assert sum(worker.woken for worker in workers) == count
        await asyncio.gather(*(store.accept(spec()) for _ in range(60)))
        await eventually(lambda: sum(worker.ran for worker in workers) == 65)
        assert len([worker for worker in workers if worker.ran]) > 5
    finally:
        for worker in workers:
            await worker.end()
