"""When the operator looks again."""

from __future__ import annotations

from deploy.operator.pace import Pace
from deploy.operator.plan import Plan

LEAST, MOST = 1.0, 10.0


def about(time_s: float, wanted_s: float) -> bool:
    return 0.8 * wanted_s <= time_s <= 1.2 * wanted_s


def test_a_pool_that_is_stuck_is_looked_at_ever_more_seldom() -> None:
    pace, stuck = Pace(LEAST, MOST), Plan(phase="Starting", message="0 of 1 workers are ready")
    found = [pace.after(stuck) for _ in range(40)]
    assert all(
        about(time_s, wanted) for time_s, wanted in zip(found, [1, 2, 4, 8, *[MOST] * 36], strict=True)
    )


def test_what_goes_on_is_looked_at_soon_again() -> None:
    pace = Pace(LEAST, MOST)
    for _ in range(9):
        pace.after(Plan(phase="RollingOut", message="0 of 2 are ready"))
    assert about(pace.after(Plan(phase="RollingOut", message="1 of 2 are ready")), LEAST)
    assert about(pace.after(Plan()), MOST)
    assert about(pace.after(Plan(phase="Starting")), LEAST)


def test_an_api_server_that_does_not_answer_gets_time() -> None:
    pace = Pace(LEAST, MOST)
    found = [pace.after(None) for _ in range(5)]
    assert about(found[0], LEAST)
    assert about(found[-1], MOST)


def test_pools_are_not_looked_at_together() -> None:
    assert len({Pace(LEAST, MOST).after(Plan()) for _ in range(10)}) > 1
