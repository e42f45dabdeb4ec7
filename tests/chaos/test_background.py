"""Background responses while everything is killed in turn: each ends, and ``starting_after`` loses and repeats nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.faults import kill_api, kill_redis, kill_worker
from tests.chaos.round import Round
from tests.chaos.stack import Stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("chaos")]


async def test_each_ends_and_is_read_whole(stack: Stack, a_round: Callable[..., Round]) -> None:
    async with a_round(tokens=(20, 60), mix={"background": 1}) as faults:
        for fault in (kill_worker, kill_api, kill_redis):
            await faults.work()
            await faults.busy_worker()
            await faults.inflict(fault)
        await faults.work()
    faults.assert_kept()
    counts = faults.ledger.counts
    assert counts["background_stream_reconnects"] > 0
    assert counts["background_restarts"] >= 1
