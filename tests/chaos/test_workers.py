"""Workers that are killed, frozen, wedged, drained, or whose engine dies: no job is lost, none runs twice at once."""

from __future__ import annotations

import re

import pytest

from monitoring.failpoints import WINDOWS
from tests.chaos.faults import drain, freeze_worker, kill_worker, pause_worker, power_cut
from tests.chaos.round import Round
from tests.processes import ROOT
from tests.support import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("chaos")]

PAIRS = [
    ("engine.run=raise@4", "worker.before_beat=sleep:7@4"),
    ("worker.claimed=kill@4", "worker.after_claim=kill@4"),
    ("worker.before_append=kill@20", "worker.after_append=kill@20"),
    ("worker.before_finish=kill@4", "worker.before_ack=kill@4"),
    ("worker.before_finish=stop@4", "worker.after_claim=stop@4"),
    ("worker.before_append=stop@20", "worker.claimed=stop@4"),
    ("reaper.before_round=kill@6", "worker.before_ack=stop@4"),
]
"""What happens to the first worker, and to the second. The first pair: an engine that dies, a worker that hangs."""

LONG = {"tokens": (200, 260), "long_tokens": 260, "clients": 8, "mix": {"poll": 1, "follow": 1, "keyed": 1}}
"""Answers that take four to five seconds: longer than a drain may."""

SLACK_S = 2.0
"""Beyond the lease, a lost worker's jobs start elsewhere within this, on an idle machine."""

full = pytest.mark.full


def slowest(faults: Round) -> float:
    """The longest wait of a job whose worker was lost, while the other worker was there."""
    return max((takeover.seconds for takeover in faults.takeovers if not takeover.disturbed), default=0.0)


def windows(pairs) -> set[str]:
    return {point.split("=")[0] for pair in pairs for point in pair}


@pytest.mark.parametrize(
    "pair", [pair if pair in PAIRS[:4:3] else pytest.param(pair, marks=full) for pair in PAIRS], ids="+".join
)
async def test_a_worker_that_stops_in_a_window_loses_nothing(stack, a_round, pair) -> None:
    await stack.rearm(dict(zip(stack.workers, pair, strict=True)))
    victims = [worker.life for worker in stack.workers]
    async with a_round() as faults:
        await eventually(lambda: all(life.reached and life.status is not None for life in victims), 30)
        await faults.work()
    assert {window for life in victims for window in life.reached} == windows([pair])
    faults.assert_kept()


@full
async def test_a_worker_killed_while_it_gives_jobs_back(stack, a_round) -> None:
    await stack.rearm(dict.fromkeys(stack.workers, "worker.before_release=kill@1"))
    async with a_round(**LONG) as faults:
        victim = await faults.busy_worker()
        life = victim.life
        await drain(faults.scene, victim)
        assert "worker.before_release" in life.reached
    faults.assert_kept()


async def test_every_window_is_some_scenarios() -> None:
    from tests.chaos.test_apis import POINTS

    apis = {point.split("=")[0] for point in POINTS}
    # The last is reached in tests/integration/test_worker_failures.py.
    here = windows(PAIRS) | apis | {"worker.before_release", "worker.before_consume"}
    names = ("test_batch_faults.py", "test_coordinator.py", "test_swapping.py", "test_webhook_kills.py")
    others = "".join((ROOT / "tests" / "integration" / name).read_text() for name in names)
    assert here | {window for window in WINDOWS if re.search(f'"{window}["=]', others)} == set(WINDOWS)


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=full)])
async def test_a_killed_workers_jobs_run_elsewhere_in_time(stack, a_round, kills) -> None:
    async with a_round(tokens=(20, 60)) as faults:
        for _ in range(kills):
            await faults.work()
            await faults.busy_worker()
            await faults.inflict(kill_worker)
    faults.assert_kept()
    assert faults.ledger.counts["given_up.worker_lost"] >= kills
    assert slowest(faults) <= stack.lease_ttl_s + faults.scene.pace.stretch(SLACK_S)


async def test_a_frozen_worker_writes_nothing_and_ends(stack, a_round) -> None:
    before = [worker.life for worker in stack.workers]
    async with a_round(tokens=(20, 60)) as faults:
        await faults.work()
        await faults.busy_worker()
        await faults.inflict(freeze_worker)
        frozen = next(life for life in before if "frozen" in life.fates)
        await eventually(lambda: frozen.status is not None, 20)
    faults.assert_kept()
    assert frozen.status == 1
    assert faults.ledger.counts["given_up.worker_lost"] >= 1
    assert slowest(faults) <= stack.lease_ttl_s + faults.scene.pace.stretch(SLACK_S)


@full
async def test_a_pause_within_the_lease_costs_nothing(stack, a_round) -> None:
    before = [worker.life for worker in stack.workers]
    async with a_round() as faults:
        for _ in range(2):
            await faults.work()
            await faults.inflict(pause_worker)
    faults.assert_kept()
    assert [worker.life for worker in stack.workers] == before
    assert not any(name.startswith("given_up.") for name in faults.ledger.counts)


@pytest.mark.parametrize("twice", [False, pytest.param(True, marks=full)])
async def test_a_drain_gives_back_what_is_too_long(stack, a_round, twice) -> None:
    async with a_round(**LONG) as faults:
        victim = await faults.busy_worker()
        life = victim.life
        await drain(faults.scene, victim, twice=twice)
    faults.assert_kept()
    assert life.status == 0
    assert faults.ledger.counts["given_up.released"] >= 1
    assert not faults.ledger.counts["given_up.worker_lost"]


@full
async def test_a_rolling_restart_loses_and_repeats_nothing(stack, a_round) -> None:
    async with a_round() as faults:
        for worker in stack.workers:
            await faults.work()
            await drain(faults.scene, worker)
            await stack.ready()
    faults.assert_kept()
    counts = faults.ledger.counts
    assert counts["engine_runs"] <= counts["jobs"] + counts["given_up.released"]
    assert not counts["given_up.worker_lost"]


async def test_everything_is_killed_at_once(stack, a_round) -> None:
    async with a_round() as faults:
        await faults.work(30)
        await faults.inflict(power_cut)
        await faults.work()
    faults.assert_kept()
