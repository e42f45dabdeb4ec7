"""The parts of `scripts.py`: what a side does when it is asked, and what of it is measured."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import astuple
from itertools import cycle, islice
from typing import Any, TypeAlias

Report: TypeAlias = Mapping[str, Any]

CHUNKS = 10
WORKER = "worker-0"
_AT_ONCE = 512


async def batch(side: Any, *, count: int, stream: bool) -> Report:
    """Run jobs together, stage by stage, while a caller waits for each; return what each stage cost per job."""
    if not side.workers:
        await side.register(WORKER)
    found = {}

    async def stage(name: str, work: Coroutine[Any, Any, Any]) -> Any:
        cost, result = await side.meter.cost(work)
        found[name] = astuple(cost / count)
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
    claims = await stage("claim", side.take(WORKER, count))
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
        claims = await side.claim(WORKER, min(left, 256))
        await asyncio.gather(*(side.finish(WORKER, claim) for claim in claims))
        left -= len(claims)
    finished = await side.meter.used_bytes()
    return {
        "jobs": jobs,
        "queued": round((queued - empty) / jobs),
        "finished": round((finished - empty) / jobs),
    }


async def fill(side: Any, *, queued: int, tenants: int, workers: int) -> Report:
    """Queue jobs of many tenants, and register workers that run eight each."""
    await side.register(WORKER)
    side.tenants = [f"tenant-{number}" for number in range(tenants)]
    every = (queued // 5_000) | 1  # odd, so that it meets every tenant

    async def one(number: int) -> None:
        ident = await side.accept(tenant=tenant_of(number, queued, side.tenants))
        if number % every == 0 and number > queued // 10:  # the first ones will be claimed
            side.waiting.append(ident)
        if number % 100_000 == 0:
            print(f"scripts: {number:,} of {queued:,} queued", file=sys.stderr, flush=True)

    await _many(queued, one)
    random.Random(0).shuffle(side.waiting)
    for number in range(1, workers):
        await side.register(f"worker-{number}")
    for worker in side.workers:
        await side.claim(worker, 8)
    return {}


def tenant_of(number: int, count: int, tenants: Sequence[str]) -> str:
    """Return who queues a job. A few tenants queue most of them first, since a store may be slow with many tenants.

    Args:
        number: the job's, from 0.
        count: all jobs.
    """
    few = tenants[:10] if number < count - 10 * len(tenants) else tenants
    return few[number % len(few)]


async def operations(side: Any, *, samples: int) -> Report:
    """Carry out each operation alone, several times; return its costs. Nothing stays behind but finished jobs."""
    if not side.workers:
        await side.register(WORKER)
    seen: dict[str, list[Sequence[float]]] = {}

    async def one(name: str, work: Coroutine[Any, Any, Any]) -> Any:
        cost, result = await side.meter.cost(work, side.SENT.get(name))
        seen.setdefault(name, []).append(astuple(cost))
        return result

    def other(ident: str) -> str:
        """Return a job that waits somewhere in the queue, each once; if none does, the one that was just accepted."""
        return side.waiting.pop() if side.waiting else ident

    for worker, tenant in islice(zip(cycle(side.workers), cycle(side.tenants), strict=False), samples):
        ident = await one("accept", side.accept(tenant=tenant, waited=True))
        await one("position", side.position(other(ident)))
        await one("move", side.move(other(ident)))
        (claim,) = await one("claim", side.claim(worker, 1))
        await one("release", side.release(worker, claim))
        (claim,) = await side.claim(worker, 1)
        if not await one("finish", side.finish(worker, claim)):
            raise RuntimeError("a job could not be finished")
        ident = await side.accept(tenant=tenant, waited=True)
        await one("cancel", side.cancel(other(ident)))
        await one("heartbeat", side.beat(worker))
        await one("reaper's round", side.reap())
    return seen


async def upkeep(side: Any, *, seconds: float) -> Report:
    """Return the share of one core that the heartbeats and the reapers of the fleet take."""
    cost, _ = await side.meter.cost(side.upkeep(side.workers, seconds))
    return {"share": round(cost.us / 1e6 / seconds, 5)}


async def _many(count: int, one: Callable[[int], Awaitable[Any]]) -> None:
    """Do something this many times, many at once."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))


PARTS: Mapping[str, Callable[..., Awaitable[Report]]] = {
    "batch": batch,
    "memory": memory,
    "fill": fill,
    "operations": operations,
    "upkeep": upkeep,
}
