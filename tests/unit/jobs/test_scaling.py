"""How many workers a pool needs: for its backlog, and for its first deadline."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.scaling import Backlog, Due, Replica, by_backlog, by_deadline, wanted


@pytest.mark.parametrize(
    ("value", "target", "replicas"),
    [(0, 0.8, 0), (1, 0.8, 1), (80, 0.8, 1), (81, 0.8, 2), (1000, 0.8, 13), (1000, 10, 1), (1001, 10, 2)],
)
def test_replicas_are_filled_to_the_target(value: int, target: float, replicas: int) -> None:
    assert by_backlog(value, 100, target) == replicas


def backlog(*, running: int = 0, workers: int = 0, **changes: Any) -> Backlog:
    """Return 1,000 jobs of 10 s that wait, with one deadline."""
    due: dict[str, Any] = {"in_s": 3600.0, "jobs": 1000, "run_s": 10.0}
    return Backlog(queued=1000, running=running, workers=workers, dues=(Due(**due | changes),))


@pytest.mark.parametrize(
    ("facts", "replica", "replicas"),
    [
        ({}, {}, 1),  # 1,000 runs of 10 s are 1,000 s of ten slots
        ({"in_s": 500.0}, {}, 2),
        ({"in_s": 500.0, "running": 500}, {}, 3),  # what runs keeps slots busy, too
        ({"in_s": 100.0}, {}, 10),
        ({"in_s": 100.0}, {"start_s": 50.0}, 20),  # new ones have half of the time
        ({"in_s": 100.0, "workers": 10}, {"start_s": 50.0}, 10),  # they are there
        ({"in_s": 5.0}, {}, 100),  # nothing but all at once is left
        ({"in_s": -5.0}, {}, 100),
        ({"jobs": 0}, {}, 0),
        ({"run_s": None}, {}, 0),
        ({}, {"slots": None}, 0),
    ],
)
def test_a_deadline_asks_for_what_meets_it(
    facts: dict[str, Any], replica: dict[str, Any], replicas: int
) -> None:
    assert by_deadline(backlog(**facts), Replica(**{"slots": 10, **replica})) == replicas


def test_a_job_of_a_high_lane_does_not_wait_for_bulk() -> None:
    call, rows = Due(30.0, 1, 10.0), Due(86_400.0, 100_001, 10.0)
    assert by_deadline(Backlog(queued=100_001, dues=(call,)), Replica(10)) == 1
    both = Backlog(queued=100_001, dues=(call, rows))
    assert (by_deadline(both, Replica(10)), both.deadline_in_s) == (2, 30.0)
    assert (by_deadline(Backlog(queued=9), Replica(10)), Backlog().deadline_in_s) == (0, None)


def test_what_is_wanted_is_the_larger_of_both() -> None:
    patient, ten = backlog(), Replica(10)
    assert wanted(patient, ten) == 125
    assert wanted(patient, ten, target=100) == 1
    assert wanted(backlog(in_s=100.0), ten, target=100) == 10
    assert (wanted(patient, Replica()), wanted(Backlog(), Replica())) == (1, 0)


@given(
    st.integers(0, 10**7),
    st.integers(0, 10**5),
    st.integers(0, 100),
    st.floats(-1e5, 1e6),
    st.floats(0, 1e4),
    st.integers(1, 1000),
    st.floats(0, 1e4),
)
def test_a_deadline_never_asks_for_more_than_runs_all_at_once(
    queued: int, running: int, workers: int, deadline_s: float, run_s: float, slots: int, start_s: float
) -> None:
    one = Backlog(queued, running, workers=workers, dues=(Due(deadline_s, queued, run_s),))
    at_once = -(-one.value // slots)
    assert 0 <= by_deadline(one, Replica(slots, start_s)) <= max(at_once, workers)
