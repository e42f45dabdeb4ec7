"""Random walks over every transition of the queue: its parts agree after each step, and in the end every job has ended."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from broker.attempts import Claim
from broker.jobs import JobStore
from broker.settings import BrokerSettings, TenantSettings
from jobs.failures import FailureCode
from jobs.lanes import Lane
from jobs.model import JobError, JobSpec
from jobs.states import JobState
from tests.invariants import check_queues
from tests.support import eventually, new_id

pytestmark = pytest.mark.asyncio

W, AWAY = "worker-a", "worker-b"  # the second claims, and never looks at its own list
STEPS = ["accept"] * 8 + ["take"] * 5 + ["finish"] * 3
RARE = ["release", "retry", "later", "cancel", "move", "lose", "reap", "pause", "purge", "ghost", "limits"]


class Walk:
    """One walk: a worker's and an api's doings, drawn at random.

    Args:
        store: with the limits of the walk.
        rng: whence it is drawn.
    """

    def __init__(self, store: JobStore, rng: random.Random) -> None:
        self.store = store
        self.rng = rng
        self.claims: list[tuple[Claim, str]] = []
        self.ids: list[str] = []

    async def register(self) -> None:
        """Have a lease, whatever became of the last one."""
        await self.store.heartbeat(W, first=True, info={"name": W, "pool": "default", "capacity": 9})
        await self.store.heartbeat(AWAY, first=True, info={"name": AWAY, "pool": "default", "capacity": 3})

    async def step(self) -> None:
        await getattr(self, self.rng.choice(STEPS + RARE))()

    async def pop(self, lane: Lane) -> str | None:
        for key in (("own_queue", "default", W), ("queue", "default", lane)):
            message: Any = await self.store.client.rpop(self.store.keys(*key))
            if message is not None:
                return json.loads(message)["headers"]["id"]
        return None

    async def claim(self, job_id: str) -> None:
        worker = self.rng.choice([W, W, AWAY])
        got = await self.store.claim(job_id, worker)
        if isinstance(got, Claim):
            self.claims.append((got, worker))

    def drawn(self) -> Iterator[tuple[Claim, str]]:
        if self.claims:
            yield self.claims.pop(self.rng.randrange(len(self.claims)))

    def lane(self) -> Lane:
        return self.rng.choice(list(Lane))

    async def accept(self) -> None:
        facts: dict[str, Any] = {
            "id": new_id(),
            "endpoint": "/v1/completions",
            "model": "m",
            "body": b"{}",
            "tenant": self.rng.choice("abc"),
            "lane": self.lane(),
            "coalesce": self.rng.choice([None, None, "s1", "s2"]),
            "affinity": self.rng.choice([None, "p1", "p2"]),
            "expires_in_ms": self.rng.choice([None, None, None, 1, 50]),
        }
        self.ids.append((await self.store.accept(JobSpec(**facts))).id)

    async def take(self) -> None:
        for lane in Lane:
            job_id = await self.pop(lane)
            if job_id is not None:
                await self.claim(job_id)
                return

    async def finish(self) -> None:
        for claim in self.drawn():
            await self.store.finish(*claim, self.rng.choice([JobState.SUCCEEDED, JobState.CANCELLED]))

    async def release(self) -> None:
        for claim in self.drawn():
            await self.store.release(*claim, "released")

    async def retry(self) -> None:
        for claim in self.drawn():
            await self.store.release_from_dead_engine(*claim, "boom")

    async def later(self) -> None:
        for claim in self.drawn():
            await self.store.retry_later(*claim, JobError(FailureCode.ENGINE_ERROR, "no"), 1.0, status=500)

    async def cancel(self) -> None:
        if self.ids:
            await self.store.cancel(self.rng.choice(self.ids))

    async def move(self) -> None:
        if self.ids:
            await self.store.move(self.rng.choice(self.ids), self.lane(), top=self.rng.random() < 0.3)

    async def lose(self) -> None:
        await self.pop(self.lane())

    async def reap(self) -> None:
        await self.store.reap()

    async def pause(self) -> None:
        await self.store.pause("default", paused=self.rng.random() < 0.5)

    async def purge(self) -> None:
        if self.rng.random() < 0.2:
            await self.store.purge("default", self.lane())

    async def ghost(self) -> None:
        """A message that nobody pushed."""
        if self.ids:
            await self.claim(self.rng.choice(self.ids))

    async def limits(self) -> None:
        most = self.rng.choice([0, 1, 3, 40])
        key = self.store.keys("limits")
        await (
            self.store.client.hset(key, "max_active", most)
            if most
            else self.store.client.hdel(key, "max_active")
        )

    async def over(self) -> bool:
        """Run whatever there is; whether nothing is left."""
        await self.register()
        await self.store.reap()
        for lane in Lane:
            while job_id := await self.pop(lane):
                await self.claim(job_id)
        while self.claims:
            await self.store.finish(*self.claims.pop(), JobState.SUCCEEDED)
        return not await self.store.client.zcard(self.store.keys("by_state", "queued"))


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_parts_agree(
    store: JobStore, broker_settings: BrokerSettings, seed: int
) -> None:
    limits = {
        "tenants": {"b": TenantSettings(weight=2, max_active=3)},
        "tenant_max_active": 6,
        "requeue_grace_s": 0.001,
        "retry_base_s": 0.01,
        "ageing_s": 0.02,
    }
    walk = Walk(JobStore(store.client, broker_settings.model_copy(update=limits)), random.Random(seed))
    await walk.store.set_limits()
    await walk.register()
    with Redis.from_url(broker_settings.redis_url, decode_responses=True) as client:
        for _ in range(250):
            await walk.step()
            check_queues(client, walk.store.keys)
        await walk.store.pause("default", paused=False)
        await eventually(walk.over)
        check_queues(client, walk.store.keys)
    for job_id in walk.ids:
        job = await walk.store.get(job_id)
        assert job is not None
        assert job.state.terminal
