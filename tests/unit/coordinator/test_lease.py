"""Work runs for as long as its lease is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.db.errors import StoreUnavailableError
from coordinator.lease import under_lease

pytestmark = pytest.mark.asyncio

LEASE_S = 0.03


def prolonging(*replies: bool | Exception) -> tuple[Callable, list[int]]:
    """Make a lease that answers so, and then is kept; and a list that is as long as it was prolonged often."""
    left, times = list(replies), []

    async def prolong() -> bool:
        times.append(1)
        reply = left.pop(0) if left else True
        if isinstance(reply, Exception):
            raise reply
        return reply

    return prolong, times


async def test_it_runs_to_its_end_while_the_lease_is_prolonged() -> None:
    prolong, times = prolonging()

    async def work() -> None:
        while len(times) < 3:
            await asyncio.sleep(0.001)

    assert await under_lease(work(), prolong, LEASE_S, "batch_1")


async def test_it_is_cancelled_when_the_lease_is_lost() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    assert not await under_lease(work(), prolonging(False)[0], LEASE_S, "batch_1")
    assert ended == [True]


async def test_while_redis_is_away_it_continues() -> None:
    prolong, times = prolonging(StoreUnavailableError("away"), StoreUnavailableError("away"))

    async def work() -> None:
        while len(times) < 4:
            await asyncio.sleep(0.001)

    assert await under_lease(work(), prolong, LEASE_S, "batch_1")


async def test_what_it_raises_is_raised() -> None:
    async def work() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await under_lease(work(), prolonging()[0], LEASE_S, "batch_1")
