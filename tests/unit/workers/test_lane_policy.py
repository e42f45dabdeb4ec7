"""What a step may hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.unit.workers.test_step_model import H100, taught
from workers.engines.vllm.lane_policy import BULK, BulkRoom, LaneSettings, Load, Margin, active, bulk_decodes
from workers.engines.vllm.step_model import StepModel

SETTINGS = LaneSettings(places=192)
MOST = 8192
QUIET = Load(decodes=192, bulk_decodes=192, call_tokens=0, bulk_tokens=10_000, likely=True)
FILLING = replace(QUIET, decodes=100, bulk_decodes=100)
BESIDE = replace(FILLING, call_tokens=400)


@pytest.fixture
def model() -> StepModel:
    return taught(StepModel(), H100, 300)


def test_bulk_is_the_lane_of_that_name() -> None:
    from jobs.lanes import Lane

    assert Lane.BULK.engine_priority == BULK
    assert all(lane.engine_priority < BULK for lane in Lane if lane is not Lane.BULK)


def test_without_calls_bulk_has_the_whole_step(model: StepModel) -> None:
    assert BulkRoom(model, SETTINGS).tokens(replace(QUIET, likely=False), MOST) == MOST


def test_while_calls_are_likely_a_step_stays_short(model: StepModel) -> None:
    room = BulkRoom(model, SETTINGS).tokens(FILLING, MOST)
    assert model.step_s(100, room) == pytest.approx(5 * model.step_s(192, 0), rel=0.01)


def steps(room: BulkRoom, needs: Iterable[int]) -> list[int]:
    """Run steps before each of which so many prompt tokens of bulk come; return how many went into each."""
    waiting, went = 0, []
    for need in needs:
        waiting += need
        went.append(min(waiting, room.tokens(QUIET, MOST)))
        room.used(went[-1])
        waiting -= went[-1]
    return went


def test_bulk_prompts_that_come_at_once_are_spread_evenly_over_the_steps(model: StepModel) -> None:
    """They do not make one long step, in which a call would wait."""
    went = steps(BulkRoom(model, SETTINGS), [1600, 0, 0, 0] * 200)[-200:]
    assert sum(went) == pytest.approx(200 * 400, rel=0.05)
    assert max(went) < 1000


def test_the_even_room_follows_a_growing_need(model: StepModel) -> None:
    room = BulkRoom(model, SETTINGS)
    steps(room, [200] * 300)
    assert sum(steps(room, [800] * 400)[-50:]) >= 50 * 800


def test_little_need_does_not_cut_short_prompts_up(model: StepModel) -> None:
    room = BulkRoom(model, SETTINGS)
    steps(room, [0] * 300)
    assert model.per_prompt_token_s * room.tokens(QUIET, MOST) == pytest.approx(
        0.25 * model.step_s(192, 0), rel=0.02
    )


def test_an_engine_that_bulk_does_not_fill_is_filled_at_once(model: StepModel) -> None:
    room = BulkRoom(model, SETTINGS)
    steps(room, [0] * 300)
    assert room.tokens(FILLING, MOST) > 10 * room.tokens(QUIET, MOST)


def test_the_steps_beside_calls_do_not_count_as_the_need(model: StepModel) -> None:
    room = BulkRoom(model, SETTINGS)
    steps(room, [400] * 300)
    before = room.tokens(QUIET, MOST)
    room.tokens(BESIDE, MOST)
    room.used(10)
    assert room.tokens(QUIET, MOST) == before


def test_beside_a_call_bulk_reads_little(model: StepModel) -> None:
    room = BulkRoom(model, SETTINGS).tokens(BESIDE, MOST)
    assert 0 < model.per_prompt_token_s * room <= 0.05 * model.step_s(192, 0) + 1e-6


def test_bulk_is_held_back_for_a_bounded_time(model: StepModel) -> None:
    """However many calls come, bulk's prompts are read."""
    room = BulkRoom(model, SETTINGS)
    given = [room.tokens(BESIDE, MOST) for _ in range(200)]
    small, full = min(given), max(given)
    assert full > 10 * small
    assert given[:3] == [small] * 3
    assert given.count(full) > 150


def test_what_is_owed_is_paid_when_no_call_is_there(model: StepModel) -> None:
    room = BulkRoom(model, SETTINGS)
    for _ in range(20):
        room.tokens(BESIDE, MOST)
    for _ in range(20):
        room.tokens(QUIET, MOST)
    assert room.tokens(BESIDE, MOST) < 100


def test_bulk_with_short_prompts_owes_nothing(model: StepModel) -> None:
    room, little = BulkRoom(model, SETTINGS), replace(BESIDE, bulk_tokens=10)
    assert len({room.tokens(little, MOST) for _ in range(200)}) == 1


@pytest.mark.parametrize("load", [QUIET, BESIDE])
def test_there_is_room_before_the_fit_is_known(load: Load) -> None:
    assert 1 <= BulkRoom(StepModel(), SETTINGS).tokens(load, MOST) <= 512


@pytest.mark.parametrize(
    "load", [QUIET, BESIDE, replace(QUIET, call_tokens=100_000), replace(QUIET, decodes=5000)]
)
def test_there_is_always_room(model: StepModel, load: Load) -> None:
    assert BulkRoom(model, SETTINGS).tokens(load, MOST) >= 1


def test_a_small_engine_bounds_the_room(model: StepModel) -> None:
    assert BulkRoom(model, SETTINGS).tokens(QUIET, 64) == 64


# ---- a smaller batch ------------------------------------------------------------------------------------------------


def test_no_aim_no_smaller_batch(model: StepModel) -> None:
    assert bulk_decodes(model, SETTINGS, QUIET, 400) == 192


def test_an_aim_makes_the_batch_smaller_and_no_smaller_than_it_needs(model: StepModel) -> None:
    aim = replace(SETTINGS, slo_s=0.020)
    decodes = bulk_decodes(model, aim, QUIET, 400)
    assert 24 <= decodes < 192
    expected = 1.5 * model.step_s(decodes, 0) + model.per_prompt_token_s * 400
    assert expected == pytest.approx(0.020, rel=0.02)


def test_an_aim_that_is_met_changes_nothing(model: StepModel) -> None:
    assert bulk_decodes(model, replace(SETTINGS, slo_s=0.1), QUIET, 400) == 192


def test_an_aim_out_of_reach_leaves_bulk_an_eighth(model: StepModel) -> None:
    assert bulk_decodes(model, replace(SETTINGS, slo_s=0.001), QUIET, 400) == 24


def test_an_aim_counts_only_while_calls_are_likely(model: StepModel) -> None:
    assert bulk_decodes(model, replace(SETTINGS, slo_s=0.02), replace(QUIET, likely=False), 400) == 192


# ---- places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "waiting", "bulk", "usage", "want"),
    [
        (0, 0, 100, 0.5, 192),  # bulk up to its places
        (10, 3, 192, 0.5, 205),  # all calls, and bulk's places
        (60, 20, 192, 0.5, 256),  # never more than the engine's slots
        (0, 0, 100, 0.96, 100),  # a full KV cache: no more bulk
        (0, 0, 0, 0.96, 1),  # never nobody
        (5, 1, 200, 0.5, 206),  # those that run are left to run
    ],
)
def test_places(calls: int, waiting: int, bulk: int, usage: float, want: int) -> None:
    assert active(calls, waiting, bulk, 192, usage, 256) == want


# ---- just in time ---------------------------------------------------------------------------------------------------


def test_the_margin_grows_where_the_device_waited_and_shrinks_slowly() -> None:
    margin = Margin(0.004)
    margin.learn(0.0)
    late = margin.seconds
    assert late > 0.004
    margin.learn(0.002)
    assert 0.004 < margin.seconds < late


@pytest.mark.parametrize("share", [Margin.LATE_SHARE, Margin.LATE_SHARE_OF_CALLS])
def test_the_margin_settles_where_few_steps_are_late(share: float) -> None:
    import random

    dice, margin, late = random.Random(3), Margin(0.004), 0
    for n in range(20_000):
        work = dice.gauss(0.003, 0.0005)
        slack = max(0.0, margin.seconds - work)
        late += n > 5000 and slack < Margin.LEAST_S
        margin.learn(slack, share)
    assert late / 15_000 == pytest.approx(share, abs=0.01)
