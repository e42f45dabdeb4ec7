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


def test_requests_that_go_on_waiting_in_the_engine_are_congestion_and_new_ones_are_not() -> None:
    controller = LaneController(256, 0.25)
    for step, waiting in enumerate([1, 4, 0, 2, 3]):
        controller.free(Signals(160, 5, waiting=waiting), step)
        assert (controller.limit, controller.reason) == (192, LimitReason.OPEN)
    controller.free(Signals(160, 5, waiting=1), 5)
    assert (controller.limit, controller.reason) == (80, LimitReason.WAITING)


def test_bulk_that_waits_in_the_engine_alone_is_no_congestion() -> None:
    controller = LaneController(256, 0.25)
    controller.free(Signals(192, 0, waiting=60), 0.0)
    assert controller.reason is LimitReason.OPEN


@given(
    st.integers(1, 300),
    st.floats(0.0, 0.99),
    st.lists(
        st.builds(
            Signals,
            bulk=st.integers(0, 300),
            others=st.integers(0, 300),
            waiting=st.none() | st.integers(0, 5),
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
