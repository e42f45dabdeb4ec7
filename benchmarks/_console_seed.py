"""A house for the console to show: jobs in every state, and workers that are records with heartbeats and run nothing."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from broker.claims import Claim
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.endpoints import CHAT
from jobs.failures import FailureCode
from jobs.ids import make_job_id
from jobs.lanes import Lane
from jobs.model import JobError, JobSpec, Usage
from jobs.states import JobState

POOLS: Final = 10
TENANTS: Final = 20
BEAT_S: Final = 3.0
DAYS: Final = 30
_AT_ONCE: Final = 64
_GIB: Final = 1024**3
_LANES: Final = (Lane.HIGH, Lane.NORMAL, Lane.NORMAL, Lane.LOW, Lane.BULK)
_ERRORS: Final = (
    (FailureCode.TIMEOUT, "the run took longer than timeout_s (60 s)"),
    (FailureCode.INVALID_REQUEST, "max_tokens must be at least 1, not -1"),
    (FailureCode.ENGINE_ERROR, "the engine failed: CUDA out of memory"),
)
_ANSWER: Final = json.dumps(
    {"choices": [{"message": {"role": "assistant", "content": "word " * 60}}]}
).encode()


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs of each kind are seeded. Together: ``queued + running + succeeded + failed``."""

    queued: int
    running: int
    succeeded: int
    failed: int

    @classmethod
    def of(cls, jobs: int) -> Counts:
        """Divide a number of jobs: four in ten wait, one in ten is dead."""
        queued, running, failed = jobs * 4 // 10, jobs // 50, jobs // 10
        return cls(queued, running, jobs - queued - running - failed, failed)


class House:
    """Seeds a server, and keeps its workers alive until :meth:`aclose`.

    Args:
        url: of Redis.
        workers: how many, spread over ten pools with a model each.
        seed: of everything that is random.
    """

    def __init__(self, url: str, workers: int, seed: int = 1) -> None:
        self._store = JobStore(
            connect(url), BrokerSettings(redis_url=url, queue_max=1_000_000, lease_ttl_s=3600.0)
        )
        self._names = [f"gpu{number % 8}@node{number // 8:02d}" for number in range(workers)]
        self._dice = random.Random(seed)
        self._beat: asyncio.Task[None] | None = None

    async def open(self, counts: Counts) -> None:
        """Register the workers, and make the jobs."""
        for name in self._names:
            info, model = self._info(name), _model(self._pool(name))
            facts = {"endpoints": [CHAT], "max_model_len": 32_768, "card": {"id": model, "object": "model"}}
            await self._store.register(name, info, {model: facts})
            await self._store.heartbeat(name, first=True, info=info)
        self._beat = asyncio.create_task(self._beat_on())
        await self._use()
        ends = [True] * counts.succeeded + [False] * counts.failed
        self._dice.shuffle(ends)
        await self._end(ends)
        await self._accept(counts.running)
        await self._claim(counts.running)
        await self._accept(counts.queued)

    async def aclose(self) -> None:
        """Let the workers go."""
        if self._beat is not None:
            self._beat.cancel()
        await self._store.aclose()

    async def _use(self) -> None:
        """Write what each tenant used of each model on the days before."""
        dice, today = self._dice, datetime.now(UTC).date()
        for age in range(1, DAYS):
            day = self._store.keys("usage", f"{today - timedelta(days=age):%Y%m%d}")
            rows = {}
            for tenant in range(TENANTS):
                for pool in {self._pool(name) for name in self._names}:
                    count = dice.randint(10, 400) // (1 + int(pool[5:]))
                    figures = (count, count // 40, 300 * count, 90 * count, 150 * count, 400_000 * count, 0)
                    rows[f"team-{tenant:02d} - {_model(pool)}"] = " ".join(map(str, figures))
            await self._store.client.hset(day, mapping=rows)
            await self._store.client.expire(day, DAYS * 86_400)

    def _pool(self, name: str) -> str:
        return f"pool-{self._names.index(name) % POOLS}"

    def _info(self, name: str) -> dict[str, Any]:
        """Describe a worker, with figures that change from one heartbeat to the next."""
        dice, pool = self._dice, self._pool(name)
        gpu = {
            "index": int(name[3]),
            "uuid": f"GPU-{name}",
            "name": "NVIDIA H100 80GB HBM3",
            "utilization": round(dice.uniform(0.4, 1.0), 2),
            "memory_used_bytes": round(dice.uniform(60, 78) * _GIB),
            "memory_total_bytes": 80 * _GIB,
            "temperature_c": float(dice.randint(48, 74)),
            "power_w": float(dice.randint(300, 690)),
        }
        return {
            "name": name,
            "host": name.partition("@")[2],
            "pid": 1234,
            "pool": pool,
            "engine": "vllm",
            "device": gpu["name"],
            "devices": 1,
            "device_memory_bytes": gpu["memory_total_bytes"],
            "models": [_model(pool)],
            "aliases": [],
            "capacity": 256,
            "bulk_capacity": 192,
            "state": "ready",
            "chunks": 0,
            "rows": dice.randint(0, 100),
            "engine_running": dice.randint(1, 200),
            "engine_waiting": dice.randint(0, 20),
            "kv_cache_usage": round(dice.uniform(0.2, 0.95), 3),
            "engine_priority": "works",
            "gpus": [gpu],
            "shares_storage": True,
            "tokens_per_s": round(dice.uniform(800, 6000), 1),
            "jobs_per_s": round(dice.uniform(1, 20), 2),
            "wait_ms": round(dice.uniform(1, 400), 1),
            "started_at": time.time() - 86_400,
        }

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for name in self._names:
                await self._store.heartbeat(name, info=self._info(name))

    def _spec(self) -> JobSpec:
        dice = self._dice
        pool = f"pool-{dice.randrange(min(POOLS, len(self._names)))}"
        said = " ".join(dice.choice(("why", "is", "the", "queue", "so", "long")) for _ in range(40))
        body = {"model": _model(pool), "messages": [{"role": "user", "content": said}], "max_tokens": 64}
        return JobSpec(
            make_job_id(time.time_ns() // 1_000_000, os.urandom(10)),
            CHAT,
            _model(pool),
            json.dumps(body).encode(),
            pool=pool,
            tenant=f"team-{dice.randrange(TENANTS):02d}",
            lane=dice.choice(_LANES),
        )

    async def _accept(self, count: int) -> None:
        specs = iter([self._spec() for _ in range(count)])

        async def client() -> None:
            for spec in specs:
                await self._store.accept(spec)

        await asyncio.gather(*(client() for _ in range(_AT_ONCE)))

    async def _claim(self, count: int) -> list[tuple[str, Claim]]:
        """Claim this many jobs, for the workers in turn."""
        claims: list[tuple[str, Claim]] = []
        while len(claims) < count:
            before = len(claims)
            for name in self._names:
                room = min(8, count - len(claims))
                if room:
                    found = await self._store.claim(name, pool=self._pool(name), room=room)
                    claims += [(name, claim) for claim in found]
            if len(claims) == before:
                raise RuntimeError(f"the workers claimed {before} of {count} jobs")
        return claims

    async def _end(self, ends: list[bool]) -> None:
        """Accept, claim and end jobs, a few hundred at a time; ``ends``: whether each succeeds."""
        for start in range(0, len(ends), 500):
            part = ends[start : start + 500]
            await self._accept(len(part))
            claims = await self._claim(len(part))
            await asyncio.gather(
                *(self._finish(*claim, good=good) for claim, good in zip(claims, part, strict=True))
            )

    async def _finish(self, worker: str, claim: Claim, *, good: bool) -> None:
        if good:
            await self._store.finish(
                claim,
                worker,
                JobState.SUCCEEDED,
                status=200,
                result=_ANSWER,
                usage=Usage(40, 60, 100),
                device_us=500_000,
            )
        else:
            error = JobError(*self._dice.choice(_ERRORS))
            await self._store.finish(claim, worker, JobState.FAILED, error=error)


def _model(pool: str) -> str:
    return f"org/model-{pool.rpartition('-')[2]}"
