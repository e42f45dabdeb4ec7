"""Random walks over every transition of the queue: its parts agree after each step, and in the end every job has ended."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from broker.claims import Claim, claims_of
from broker.db.calls.attempts import Claim as ClaimCall
from broker.db.errors import QueueFullError
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from broker.settings import BrokerSettings, TenantSettings
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import SCHEMA_VERSION, JobError, JobSpec, Usage
from jobs.states import JobState
from tests.integration.test_fair_queue import limited
from tests.invariants import check_queues
from tests.lifetimes import FOR_GOOD, name_of
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

WORKERS = {"worker-a": 9, "worker-b": 3, "worker-c": 5}
POOLS = ("default", "default-v2")
POOL_OF = {"worker-a": POOLS[0], "worker-b": POOLS[0], "worker-c": POOLS[1]}
STEPS = ["accept"] * 8 + ["take"] * 5 + ["finish"] * 4
RARE = [
    *("release", "retry", "later", "kill", "fail", "cancel", "move", "reap", "pause", "purge"),
    *("lost_answer", "disown", "die", "newer", "limits", "flip", "flip"),
]
LIMITS: list[dict[str, Any]] = [
    {"tenant_max_active": 6, "tenants": {"b": TenantSettings(weight=2, max_active=3)}},
    {"max_active": 4, "tenants": {"a": TenantSettings(weight=0.3)}},
    {"tenant_max_active": 1},
    {"turns": "jobs", "max_active": 1},
    {},
]
BROKEN = JobError(FailureCode.ENGINE_ERROR, "no")


class Walk:
    """One walk: the doings of two workers and an api, drawn at random.

    Args:
        store: with the limits of the walk.
        settings: its settings.
        rng: whence it is drawn.
    """

    def __init__(self, store: JobStore, settings: BrokerSettings, rng: random.Random) -> None:
        self.store = store
        self.settings = settings
        self.rng = rng
        self.claims: list[tuple[Claim, str]] = []
        self.ids: list[str] = []

    async def register(self) -> None:
        """Have leases, whatever became of the last ones."""
        for name, capacity in WORKERS.items():
            info = {"name": name, "pool": POOL_OF[name], "capacity": capacity, "bulk_capacity": capacity - 1}
            await self.store.heartbeat(name, first=True, info=info)

    async def step(self) -> None:
        await getattr(self, self.rng.choice(STEPS + RARE))()

    def drawn(self) -> Iterator[tuple[Claim, str]]:
        if self.claims:
            yield self.claims.pop(self.rng.randrange(len(self.claims)))

    def lane(self) -> Lane:
        return self.rng.choice(list(Lane))

    async def accept(self) -> None:
        chunk = self.rng.random() < 0.1
        facts: dict[str, Any] = {
            "id": new_id(),
            "endpoint": CHUNK_ENDPOINT if chunk else "/v1/completions",
            "model": "m",
            "body": b"x" * self.rng.randrange(400),
            "tenant": self.rng.choice("abc"),
            "lane": self.lane(),
            "stream": self.rng.random() < 0.3,
            "coalesce": self.rng.choice([None, None, "s1", "s2"]),
            "affinity": self.rng.choice([None, None, "p1", "p2"]),
            "expires_in_ms": self.rng.choice([None, None, None, 1, 50]),
            "queue_timeout_ms": self.rng.choice([None, None, None, 1, 50]),
            "metadata": {"batch": "batch_1"} if chunk else {},
        }
        try:
            self.ids.append((await self.store.accept(JobSpec(**facts))).id)
        except QueueFullError:
            assert await self.store.client.zcard(self.store.keys("jobs")) >= self.settings.queue_max

    async def take(self) -> None:
        await self.claim(version=SCHEMA_VERSION)

    async def newer(self) -> None:
        """A job that only a later version can read waits, until such a worker comes."""
        if self.ids:
            record = self.store.keys("job", self.rng.choice(self.ids))
            if await self.store.client.hget(record, "state") == "queued":
                await self.store.client.hset(record, "v", 99)
        await self.claim(version=self.rng.choice([SCHEMA_VERSION, 99]))

    async def lost_answer(self) -> None:
        await self.claim(version=SCHEMA_VERSION, lost=True)

    async def claim(self, *, version: int, lost: bool = False, worker: str | None = None) -> None:
        worker = worker or self.rng.choice(list(WORKERS))
        call = ClaimCall(
            worker=worker,
            pool=POOL_OF[worker],
            room=self.rng.choice([1, 1, 2, 5]),
            bulk_room=self.rng.choice([0, 1, 2]),
            suspects=self.rng.choice([0, 1]),
            chunk_lanes=self.rng.choice([0, 3, len(Lane)]),
            version=version,
            retention_ms=60_000,
            token=new_id(),
        )
        answer, blobs = await self.store.functions.submit(call)
        if lost:
            call.again = True
            again, blobs = await self.store.functions.submit(call)
            assert {job.id for job in again.jobs} >= {job.id for job in answer.jobs}
            answer = again
        assert len(answer.jobs) <= call.room
        assert sum(job.lane == Lane.BULK for job in answer.jobs) <= call.bulk_room
        assert sum(job.kills > 0 for job in answer.jobs) <= call.suspects
        claims = claims_of(answer, blobs, self.store.sealer)
        lanes = [one.lane for one in claims if one.endpoint == CHUNK_ENDPOINT and one.lane is not Lane.BULK]
        assert all(lane.place < call.chunk_lanes for lane in lanes)
        self.claims += [(one, worker) for one in claims]

    async def finish(self) -> None:
        for claim, worker in self.drawn():
            used = self.rng.randrange(250)
            state = self.rng.choice([JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.CANCELLED])
            await self.store.finish(claim, worker, state, usage=Usage(used, used, 2 * used))

    async def fail(self) -> None:
        for claim, worker in self.drawn():
            error = JobError(self.rng.choice([FailureCode.TIMEOUT, FailureCode.INVALID_REQUEST]), "no")
            await self.store.finish(claim, worker, JobState.FAILED, error=error)

    async def release(self) -> None:
        for claim in self.drawn():
            await self.store.release(*claim, "released")

    async def kill(self) -> None:
        for claim in self.drawn():
            await self.store.release_from_dead_engine(*claim, "boom")

    async def retry(self) -> None:
        """The last thing that a worker says comes twice."""
        for claim in self.drawn():
            for _ in range(2):
                await self.store.retry_later(*claim, BROKEN, 0.0, status=500)

    async def later(self) -> None:
        for claim in self.drawn():
            await self.store.retry_later(*claim, BROKEN, 1.0, status=500)

    async def disown(self) -> None:
        for claim, worker in self.drawn():
            await self.store.disown(worker, [claim.id])

    async def die(self) -> None:
        """A worker is gone; another of its name comes after the reaper."""
        worker = self.rng.choice(list(WORKERS))
        await self.store.bury(worker)
        if self.rng.random() < 0.7:
            await self.store.reap()
            await self.register()

    async def cancel(self) -> None:
        if self.ids:
            await self.store.cancel(self.rng.choice(self.ids))

    async def move(self) -> None:
        if self.ids:
            await self.store.move(self.rng.choice(self.ids), self.lane(), top=self.rng.random() < 0.3)

    async def reap(self) -> None:
        await self.store.reap()

    async def pause(self) -> None:
        await self.store.pause(self.rng.choice(POOLS), paused=self.rng.random() < 0.5)

    async def purge(self) -> None:
        if self.rng.random() < 0.2:
            await self.store.purge(self.rng.choice(POOLS), self.lane())

    async def flip(self) -> None:
        """Another version of the pool serves now: the jobs that wait in the other one are moved."""
        rollouts = Rollouts(self.store)
        record = await rollouts.get("default")
        pool = next(one for one in POOLS if one != record.current.pool)
        assert await rollouts.write(record, record.switch(pool), flip=True)

    async def limits(self) -> None:
        """An api with other limits, and other turns, starts."""
        changes = self.rng.choice(LIMITS)
        self.store = await limited(self.store, self.settings, **changes)

    async def over(self) -> bool:
        """Run whatever there is; whether nothing is left."""
        await self.register()
        await self.store.reap()
        while self.claims:
            claim, worker = self.claims.pop()
            await self.store.finish(claim, worker, JobState.SUCCEEDED)
        for worker in WORKERS:
            await self.claim(version=99, worker=worker)
        jobs = [await self.store.client.hget(self.store.keys("job", job), "state") for job in self.ids]
        return not {"queued", "running"} & set(jobs)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_parts_agree(
    store: JobStore, broker_settings: BrokerSettings, seed: int
) -> None:
    settings = broker_settings.model_copy(update={"retry_base_s": 0.01, "ageing_s": 0.02, "queue_max": 40})
    walk = Walk(JobStore(store.client, settings), settings, random.Random(seed))
    await walk.register()
    with Redis.from_url(broker_settings.redis_url, decode_responses=True) as client:
        for _ in range(250):
            await walk.step()
            check_queues(client, walk.store.keys)
        for pool in POOLS:
            await walk.store.pause(pool, paused=False)
        await eventually(walk.over)
        check_queues(client, walk.store.keys)
    for key in ("deadlines", "delayed"):
        assert not await store.client.exists(store.keys(key))


async def test_of_jobs_whose_retention_is_over_nothing_is_left_but_what_is_for_good(
    store: JobStore, broker_settings: BrokerSettings
) -> None:
    """Of their pool, lanes, tenants, workers and prefixes, too; an idempotency key and the like have a TTL."""
    settings = broker_settings.model_copy(update={"retry_base_s": 0.01, "retention_s": 0.1})
    walk = Walk(JobStore(store.client, settings), settings, random.Random(7))
    await walk.register()
    for _ in range(150):
        await walk.step()
    for pool in POOLS:
        await walk.store.pause(pool, paused=False)
    await eventually(walk.over)
    for name in WORKERS:
        await walk.store.bury(name)

    async def left() -> set[str]:
        await walk.store.reap()
        found = [key async for key in store.client.scan_iter(f"{store.keys.namespace}:*")]
        return {name for key in found if (name := name_of(store.keys, key)[0]) not in FOR_GOOD}

    async def only_what_goes_by_itself() -> bool:
        return await left() <= {"affinity", "own_bell", "bell", "bulk_bell", "usage"}

    await eventually(only_what_goes_by_itself)
    async for key in store.client.scan_iter(f"{store.keys.namespace}:*"):
        if name_of(store.keys, key)[0] in {"affinity", "own_bell", "usage"}:
            assert await store.client.ttl(key) != -1
