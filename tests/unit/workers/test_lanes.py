"""The lane controller's decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.admission.policy import LaneController, LimitReason, Signals


@pytest.mark.parametrize(
    ("capacity", "reserve", "ceiling"),
    [(256, 0.25, 192), (4, 0.25, 3), (1, 0.25, 1), (3, 0.9, 1), (8, 0.0, 8)],
)
def test_a_share_is_kept_back(capacity: int, reserve: float, ceiling: int) -> None:
    controller = LaneController(capacity, reserve)
    assert controller.free(Signals(0, 0), 0.0) == ceiling == controller.ceiling
    assert controller.free(Signals(ceiling, 0), 1.0) == 0


def test_others_beyond_the_share_take_from_bulk() -> None:
    controller = LaneController(16, 0.25)
    assert controller.free(Signals(0, 4), 0.0) == 12
    assert controller.free(Signals(0, 10), 0.0) == 6
    assert controller.free(Signals(6, 16), 0.0) == 0


def test_a_few_wait_ahead_in_the_engine_where_bulk_may_have_every_slot() -> None:
    free = LaneController(64, 0.0)
    assert free.free(Signals(64, 0), 0.0) == 0
    assert free.free(Signals(64, 0), 0.0, overcommit=True) == 4
    assert free.free(Signals(68, 0), 0.0, overcommit=True) == 0
    assert free.free(Signals(60, 4), 0.0, overcommit=True) == 0  # not beside interactive jobs
    assert LaneController(64, 0.25).free(Signals(48, 0), 0.0, overcommit=True) == 0
    free.free(Signals(64, 0, kv_cache_usage=0.99), 1.0)
    assert free.free(Signals(64, 0), 1.05, overcommit=True) == 0  # nor while it is held back


@pytest.mark.parametrize(
    ("signals", "reason"),
    [
        (Signals(160, 0, kv_cache_usage=0.99), LimitReason.KV_CACHE),
        (Signals(160, 5, preemptions=1), LimitReason.PREEMPTED),
    ],
)
def test_congestion_halves_and_rest_gives_back_step_by_step(signals: Signals, reason: LimitReason) -> None:
    controller = LaneController(256, 0.25)
    assert controller.free(signals, 0.0) == 0
    assert (controller.limit, controller.reason) == (80, reason)
    calm = Signals(80, 5, preemptions=signals.preemptions)
    assert controller.free(calm, 0.05) == 0  # too soon to adjust again
    assert [controller.free(calm, 0.1 * step) for step in range(1, 4)] == [16, 32, 48]
    for step in range(4, 20):
        controller.free(calm, 0.1 * step)
    assert controller.limit == 192


def test_a_cut_takes_effect_before_the_next() -> None:
    """Jobs that run do not end at once: while they do, the signal says nothing new."""
    controller = LaneController(256, 0.25)
    full = [Signals(bulk, 0, kv_cache_usage=0.99) for bulk in (192, 180, 150, 97, 96, 60, 48)]
    limits = []
    for step, signals in enumerate(full):
        controller.free(signals, step / 10)
        limits.append(controller.limit)
    assert limits == [96, 96, 96, 96, 48, 48, 24]


def test_a_full_engine_beside_calls_is_no_congestion() -> None:
    """Its own queue of bulk once took the limit from 192 to 1 in 1.2 s."""
    controller = LaneController(256, 0.25, holds_bulk=True)
    for step in range(20):
        controller.free(Signals(192 + 32, 5, kv_cache_usage=0.5, preemptions=0), step / 10)
    assert (controller.limit, controller.reason) == (192, LimitReason.OPEN)


@pytest.mark.parametrize(("capacity", "ahead"), [(256, 32), (8, 2), (1, 2)])
def test_bulk_waits_inside_an_engine_that_holds_it(capacity: int, ahead: int) -> None:
    controller = LaneController(capacity, 0.25, holds_bulk=True)
    most = controller.ceiling + ahead
    assert controller.free(Signals(0, 0), 0.0) == most
    assert controller.free(Signals(most, 0), 0.0) == 0


def test_bulk_does_not_wait_inside_the_engine_for_memory() -> None:
    controller = LaneController(256, 0.25, holds_bulk=True)
    assert controller.free(Signals(192 + 32, 0, kv_cache_usage=0.99), 0.0) == 0
    assert controller.limit == 96
    assert controller.free(Signals(96, 0, kv_cache_usage=0.9), 0.05) == 0
    assert controller.free(Signals(90, 0, kv_cache_usage=0.9), 0.05) == 6


@given(
    st.integers(1, 300),
    st.floats(0.0, 0.99),
    st.lists(
        st.builds(
            Signals,
            bulk=st.integers(0, 300),
            others=st.integers(0, 300),
            kv_cache_usage=st.none() | st.floats(0, 1),
            preemptions=st.none() | st.integers(0, 5),
        ),
        max_size=30,
    ),
)
def test_never_more_than_there_is_and_never_nothing_for_ever(
    capacity: int, reserve: float, seen: list[Signals]
) -> None:
    controller = LaneController(capacity, reserve)
    for step, signals in enumerate(seen):
        room = controller.free(signals, step / 10)
        assert 0 <= room <= max(0, capacity - signals.bulk - signals.others)
        assert 1 <= controller.limit <= controller.ceiling
    assert controller.free(Signals(0, 0, preemptions=9), 1e9) >= 1
