"""The parts of `scripts.py`: what a side does when it is asked, and what of it is measured."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import astuple
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
    """Carry out each operation alone, several times in a row; return its costs. Nothing stays behind but finished jobs."""
    if not side.workers:
        await side.register(WORKER)
    seen: dict[str, list[Sequence[float]]] = {}
    tenants = random.choices(side.tenants, k=samples)
    workers = random.choices(side.workers, k=samples)

    async def each(name: str, works: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
        results = []
        for work in works:
            cost, result = await side.meter.cost(work, side.SENT.get(name))
            seen.setdefault(name, []).append(astuple(cost))
            results.append(result)
        return results

    def others(idents: Iterable[str]) -> list[str]:
        """Return jobs that wait somewhere in the queue, each once; if none does, those that were just accepted."""
        return [side.waiting.pop() if side.waiting else ident for ident in idents]

    idents = await each("accept", (side.accept(tenant=tenant, waited=True) for tenant in tenants))
    await each("position", (side.position(ident) for ident in others(idents)))
    await each("move", (side.move(ident) for ident in others(idents)))
    claims = await each("claim", (side.claim(worker, 1) for worker in workers))
    given = zip(workers, claims, strict=True)
    await each("release", (side.release(worker, claim) for worker, (claim,) in given))
    held = [(worker, *await side.claim(worker, 1)) for worker in workers]
    if not all(await each("finish", (side.finish(worker, claim) for worker, claim in held))):
        raise RuntimeError("a job could not be finished")
    idents = [await side.accept(tenant=tenant, waited=True) for tenant in tenants]
    await each("cancel", (side.cancel(ident) for ident in others(idents)))
    await each("heartbeat", (side.beat(worker) for worker in workers))
    await each("reaper's round", (side.reap() for _ in workers))
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
