"""Redis that is killed, stalled, full, demoted, cut off; claims whose answers are lost; bells and functions that are.

Nobody but Redis comes to harm: workers neither die nor keep a slot, and go on as soon as it is back.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker.celery.app import make_celery
from tests.chaos.faults import (
    cut_connections,
    demote_redis,
    fill_memory,
    kill_redis,
    kill_worker,
    lose_claims,
    lose_functions,
    ring_in_vain,
    stall_redis,
)
from tests.chaos.stack import NAMESPACE, Stack
from tests.support import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("chaos")]

GOES_ON_WITHIN_S = 15.0


def slots(stack: Stack) -> dict[str, Any]:
    """What each worker's pool says that it runs."""
    with make_celery(stack.url, NAMESPACE) as app, app.connection_for_write() as connection:
        workers = app.control.inspect(timeout=5.0, limit=len(stack.workers), connection=connection)
        told = workers.stats() or {}
    return {name: stats["pool"]["running"] for name, stats in told.items()}


FAULTS = [kill_redis, cut_connections, stall_redis, fill_memory, demote_redis]


@pytest.mark.parametrize(
    "inflicted",
    [
        pytest.param([*FAULTS, lose_claims, lose_functions, ring_in_vain], id="each_once"),
        *(pytest.param([fault] * 2, id=fault.__name__, marks=pytest.mark.full) for fault in FAULTS),
    ],
)
async def test_redis_is_away(stack, a_round, inflicted) -> None:
    before = [child.life for child in stack.children]
    async with a_round(patience_s=GOES_ON_WITHIN_S) as faults:
        for fault in inflicted:
            await faults.work()
            await faults.inflict(fault)
    faults.assert_kept()
    assert [child.life for child in stack.children] == before, "a process ended with Redis"

    async def all_free() -> bool:
        return list((await asyncio.to_thread(slots, stack)).values()) == [0] * len(stack.workers)

    await eventually(all_free, GOES_ON_WITHIN_S)


@pytest.mark.full
async def test_bells_and_functions_are_lost(stack, a_round) -> None:
    async with a_round(patience_s=10.0) as faults:
        for n in range(30):
            await faults.work(2)
            await faults.inflict(ring_in_vain if n % 2 else lose_functions)
    faults.assert_kept()
    assert not any(name.startswith("given_up.") for name in faults.ledger.counts)


@pytest.mark.full
async def test_every_claim_is_unique_whatever_is_lost_and_however_many_reap(stack, a_round) -> None:
    """Two apis, two workers, four reapers; answers of claims that are lost; a worker killed in their midst."""
    async with a_round(clients=24, pause_s=0.02) as faults:
        for n in range(40):
            await faults.work(3)
            await faults.inflict(lose_claims)
            if n == 15:
                await faults.inflict(kill_worker)
    faults.assert_kept()
    counts = faults.ledger.counts
    assert counts["engine_runs"] <= counts["jobs"] + counts["given_up.worker_lost"]
