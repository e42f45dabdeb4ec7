"""Api processes that are killed: around accept, in the midst of streams. Clients retry with their key, and resume."""

from __future__ import annotations

import pytest

from tests.chaos.faults import freeze_api, kill_api
from tests.support import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("chaos")]

POINTS = {
    "api.before_accept=kill@5": {"keyed": 3, "poll": 1, "sync": 1},
    "api.after_accept=kill@5": {"keyed": 3, "poll": 1, "sync": 1},
    "api.mid_stream=kill@20": {"streamed": 2, "follow": 1},
    "api.mid_events=kill@20": {"follow": 3, "keyed": 1},
}
"""Where the first api dies, and under which load."""


@pytest.mark.parametrize(
    "point",
    [point if "after_accept" in point else pytest.param(point, marks=pytest.mark.full) for point in POINTS],
)
async def test_an_api_that_dies_in_a_window(stack, a_round, point) -> None:
    first = stack.apis[0]
    await stack.rearm({first: point})
    life = first.life
    async with a_round(mix=POINTS[point]) as faults:
        await eventually(lambda: life.reached, 30)
        await faults.work(25)
    assert list(life.reached) == [point.split("=")[0]]
    faults.assert_kept()


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.full)])
async def test_streams_resume_on_the_other_api(stack, a_round, kills) -> None:
    async with a_round(mix={"follow": 1}, tokens=(20, 80)) as faults:
        for _ in range(kills):
            await faults.work(12)
            await faults.inflict(kill_api)
    faults.assert_kept()
    assert faults.ledger.counts["event_stream_reconnects"] > 10
    assert not faults.ledger.counts["restarted_events"], "no worker was lost"


async def test_a_frozen_api(stack, a_round) -> None:
    async with a_round() as faults:
        await faults.work()
        await faults.inflict(freeze_api)
    faults.assert_kept()
