"""The parts of `scripts.py`: what each side does, and what of it is measured."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

from _commandstats import Cost, median

Report: TypeAlias = Mapping[str, Any]

CHUNKS = 10
WORKER = "worker-0"
_AT_ONCE = 512


async def stages(side: Any, *, at_once: Sequence[int], jobs: int) -> Report:
    """A job's stages with a caller who waits, and then of streams; per job, for several numbers of jobs at once.

    Args:
        jobs: about how many are run for each number; at least ten times that number.
    """
    await side.register(WORKER)
    found: dict[str, Any] = {}
    for stream in (False, True):
        for count in at_once:
            batches = max(10, jobs // count)
            seen = [await _batch(side, count, stream=stream) for _ in range(batches + 1)][1:]
            per_job = {stage: median(one[stage] / count for one in seen) for stage in seen[0]}
            total = sum(per_job.values(), Cost())
            name = f"{'streamed' if stream else 'whole'} {count}"
            found[name] = {stage: cost.rounded() for stage, cost in (per_job | {"total": total}).items()}
    return found


async def _batch(side: Any, count: int, *, stream: bool) -> dict[str, Cost]:
    """Run jobs together, stage by stage."""
    await side.beat(WORKER)
    found = {}

    async def stage(name: str, work: Coroutine[Any, Any, Any]) -> Any:
        found[name], result = await side.meter.cost(work)
        return result

    async def accept() -> None:
        await asyncio.gather(*(side.accept(waited=True, stream=stream) for _ in range(count)))

    async def chunks() -> None:
        for seq in range(1, CHUNKS + 1):
            await side.append(claims, seq)

    async def finish() -> None:
        done = await asyncio.gather(*(side.finish(WORKER, claim) for claim in claims))
        if not all(done):
            raise RuntimeError("a job could not be finished")

    await stage("accept", accept())
    claims = await stage("claim", side.claim(WORKER, count))
    if stream:
        await stage("chunks", chunks())
    await stage("finish", finish())
    return found


async def memory(side: Any, *, jobs: int) -> Report:
    """The bytes of a queued job, and of a finished one with its result."""
    await side.register(WORKER)
    await _many(100, lambda _: side.accept())
    for claim in await side.claim(WORKER, 100):
        await side.finish(WORKER, claim)
    empty = await side.meter.used_bytes()
    await _many(jobs, lambda n: side.accept(tenant=f"tenant-{n % 10}"))
    queued = await side.meter.used_bytes()
    left = jobs
    while left:
        await side.beat(WORKER)
        claims = await side.claim(WORKER, min(left, 256))
        await asyncio.gather(*(side.finish(WORKER, claim) for claim in claims))
        left -= len(claims)
    finished = await side.meter.used_bytes()
    return {
        "jobs": jobs,
        "queued": round((queued - empty) / jobs),
        "finished": round((finished - empty) / jobs),
    }


async def scale(
    side: Any, *, queued: int, tenants: int, workers: int, samples: int, seconds: float
) -> Report:
    """What each operation costs with nothing queued and one worker, and with a full queue and a fleet.

    Args:
        seconds: for how long the fleet's heartbeats and reapers are watched.
    """
    await side.register(WORKER)
    empty = await _operations(side, samples, "default", [])
    names = [f"tenant-{number}" for number in range(tenants)]
    waiting = await _fill(side, queued, names)
    fleet = [f"worker-{number}" for number in range(workers)]
    for worker in fleet:
        await side.register(worker)
        await side.claim(worker, 8)
    full = await _operations(side, samples, names[0], waiting, fleet)
    cost, _ = await side.meter.cost(side.upkeep(fleet, seconds))
    return {
        "queued": queued,
        "tenants": tenants,
        "workers": workers,
        "empty": {name: cost.rounded() for name, cost in empty.items()},
        "full": {name: cost.rounded() for name, cost in full.items()},
        "upkeep_share": round(cost.us / 1e6 / seconds, 5),
    }


async def _operations(
    side: Any, samples: int, tenant: str, waiting: list[str], fleet: Sequence[str] = (WORKER,)
) -> dict[str, Cost]:
    """Measure each operation alone, several times.

    Args:
        waiting: jobs that wait somewhere in the queue; with none, those just accepted are looked at.
        fleet: the live workers.
    """
    seen: dict[str, list[Cost]] = {}
    others = iter(random.Random(0).sample(waiting, min(len(waiting), 3 * samples)))

    async def one(name: str, work: Coroutine[Any, Any, Any]) -> Any:
        cost, result = await side.meter.cost(work, side.SENT.get(name))
        seen.setdefault(name, []).append(cost)
        return result

    for turn in range(samples + 1):
        worker = fleet[turn % len(fleet)]
        ident = await one("accept", side.accept(tenant=tenant, waited=True))
        await one("position", side.position(next(others, ident)))
        await one("move", side.move(next(others, ident)))
        (claim,) = await one("claim", side.claim(worker, 1))
        await one("release", side.release(worker, claim))
        (claim,) = await side.claim(worker, 1)
        if not await one("finish", side.finish(worker, claim)):
            raise RuntimeError("a job could not be finished")
        ident = await side.accept(tenant=tenant, waited=True)
        await one("cancel", side.cancel(next(others, ident)))
        await one("heartbeat", side.beat(worker))
        await one("reaper's round", side.reap())
        if not turn:
            seen.clear()
    return {name: median(costs) for name, costs in seen.items()}


def tenant_of(number: int, count: int, tenants: Sequence[str]) -> str:
    """Return who queues a job. A few tenants queue most of them first, since a store may be slow with many tenants.

    Args:
        number: the job's, from 0.
        count: all jobs.
    """
    few = tenants[:10] if number < count - 10 * len(tenants) else tenants
    return few[number % len(few)]


async def _fill(side: Any, count: int, tenants: Sequence[str]) -> list[str]:
    """Queue jobs; return the ids of some, from all over the queue."""
    kept: list[str] = []
    every = max(1, count // 5_000)

    async def one(number: int) -> None:
        ident = await side.accept(tenant=tenant_of(number, count, tenants))
        if number % every == 0 and number > count // 10:  # the first ones will be claimed
            kept.append(ident)
        if number % 10_000 == 0:
            await side.beat(WORKER)
        if number % 100_000 == 0:
            print(f"scripts: {number:,} of {count:,} queued", file=sys.stderr, flush=True)

    await _many(count, one)
    return kept


async def _many(count: int, one: Callable[[int], Awaitable[Any]]) -> None:
    """Do something this many times, many at once."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))


PARTS: Mapping[str, Callable[..., Awaitable[Report]]] = {"stages": stages, "memory": memory, "scale": scale}
