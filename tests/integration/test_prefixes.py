"""Jobs that share a prefix, at the store: they are left to the worker that has it, for a moment, and keep their order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from broker.claims import Claim
from broker.jobs import JobStore
from jobs.lanes import Lane
from jobs.states import JobState
from tests.integration.test_fair_queue import alive, positions, spec, take
from tests.integration.test_transitions import asking
from tests.support import eventually

pytestmark = pytest.mark.asyncio

ONE, TWO = "one", "two"


async def warmed(store: JobStore, capacity: int = 2) -> Claim:
    """Have two workers, of which the second runs a job with the prefix ``p``."""
    for worker in (ONE, TWO):
        await alive(store, capacity=capacity, worker=worker)
    await store.accept(spec(affinity="p"))
    claim = await take(store, TWO)
    assert claim is not None
    return claim


async def at_once(*calls: Awaitable[Any]) -> list[Any]:
    """Make calls in one round trip, so that no moment passes between them."""
    return list(await asyncio.gather(*calls))


async def test_a_job_is_left_to_the_worker_that_has_its_prefix(store: JobStore) -> None:
    await warmed(store)
    second, answer = await at_once(store.accept(spec(affinity="p")), store.functions.call(asking(ONE)))
    assert answer.jobs == ()
    assert 0 < answer.ask_again_ms <= 25
    assert await store.client.lrange(store.keys("own_bell", TWO), 0, -1) == ["1"]
    assert 0 < await store.client.pttl(store.keys("own_bell", TWO)) <= 1000
    assert (await take(store, TWO)).id == second.id
    third = await store.accept(spec(affinity="p"))  # there is no room on two: whoever is free takes it
    assert (await take(store, ONE)).id == third.id


async def test_a_job_is_left_for_a_moment_only(store: JobStore) -> None:
    await warmed(store)
    second = await store.accept(spec(affinity="p"))
    claim = await eventually(lambda: take(store, ONE))
    assert claim.id == second.id
    third, none = await at_once(store.accept(spec(affinity="p")), take(store, TWO))
    assert none is None  # from now on its prefix is there
    assert (await take(store, ONE)).id == third.id


async def test_many_submissions_leave_one_ring(store: JobStore) -> None:
    await warmed(store, capacity=200)
    for _ in range(50):
        await store.accept(spec(affinity="p"))
    assert await store.client.llen(store.keys("own_bell", TWO)) == 1


async def test_the_order_of_a_tenants_jobs_is_kept(store: JobStore) -> None:
    """Another worker passes over what it leaves, and takes what is behind it."""
    await warmed(store, capacity=20)
    jobs = [store.accept(spec(affinity=prefix)) for prefix in ("p", None, "p", None, "p", None)]
    *accepted, others = await at_once(*jobs, store.functions.call(asking(ONE, room=3)))
    ids = [one.id for one in accepted]
    assert [job.id for job in others.jobs] == ids[1::2]
    assert await positions(store, ids) == {job_id: place for place, job_id in enumerate(ids[::2])}
    behind = await store.accept(spec())
    assert [(await take(store, TWO)).id for _ in range(4)] == [*ids[::2], behind.id]


@pytest.mark.parametrize("fate", ["buried", "silent", "draining", "full"])
async def test_a_worker_that_cannot_take_it_is_not_waited_for(store: JobStore, fate: str) -> None:
    claim = await warmed(store)
    match fate:
        case "buried":
            await store.finish(claim, TWO, JobState.SUCCEEDED)
            await store.bury(TWO)
        case "silent":
            lease = int(await store.client.hget(store.keys("worker", TWO), "ttl"))
            await store.client.zincrby(store.keys("leases"), -0.6 * lease, TWO)
        case "draining":
            await alive(store, capacity=2, worker=TWO, state="draining")
        case "full":
            await store.accept(spec(affinity="p"))
            assert await take(store, TWO) is not None
    second = await store.accept(spec(affinity="p"))
    assert not await store.client.exists(store.keys("own_bell", TWO)) or fate == "full"
    assert (await take(store, ONE)).id == second.id


async def test_nothing_is_left_for_a_worker_that_is_gone(store: JobStore) -> None:
    claim = await warmed(store, capacity=9)
    second = await store.accept(spec(affinity="p"))
    await store.pause("default", paused=True)
    await store.bury(TWO)
    await store.reap()
    assert await store.pause("default", paused=False)
    assert [(await take(store, ONE)).id for _ in range(2)] == [claim.id, second.id]

    async def rung() -> bool:
        return not await store.client.exists(store.keys("own_bell", TWO))

    await eventually(rung)


async def test_bulk_goes_to_whoever_asks(store: JobStore) -> None:
    await warmed(store)
    bulk = await store.accept(spec(affinity="p", lane=Lane.BULK))
    assert (await take(store, ONE)).id == bulk.id
