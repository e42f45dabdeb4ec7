"""Everything is killed in turn while webhooks are delivered: each end arrives at least once, under one id."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.faults import kill_api, kill_coordinator, kill_redis, kill_worker
from tests.chaos.round import Round
from tests.chaos.stack import Stack
from tests.chaos.webhooks import Hooked

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("chaos"),
    pytest.mark.full,  # tests/integration/test_webhook_kills.py has each kill alone
]


async def test_each_end_arrives_whatever_is_killed(stack: Stack, a_round: Callable[..., Round]) -> None:
    async with Hooked(stack) as hooked:
        async with a_round() as faults:
            for fault in (kill_coordinator, kill_redis, kill_worker, kill_coordinator, kill_api):
                await faults.work()
                await faults.inflict(fault)
            hooked.kill_receiver()
            await faults.work()
        await hooked.check(faults.ledger)
        faults.assert_kept()
        assert faults.ledger.counts["webhooks"] > 0
