"""The back-off of failed attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.retry import RetryPolicy


@pytest.mark.parametrize(
    ("attempt", "chance", "delay_s"),
    [(1, 0.0, 0.5), (1, 1.0, 1.0), (2, 1.0, 2.0), (3, 0.5, 3.0), (7, 1.0, 60.0), (5000, 1.0, 60.0)],
)
def test_doubles_up_to_its_limit(attempt: int, chance: float, delay_s: float) -> None:
    assert RetryPolicy(1.0, 60.0).delay_s(attempt, chance) == delay_s


@given(st.integers(1, 10_000), st.floats(0.0, 1.0))
def test_is_between_half_and_all(attempt: int, chance: float) -> None:
    policy = RetryPolicy(0.25, 30.0)
    full = policy.delay_s(attempt, 1.0)
    assert full / 2 <= policy.delay_s(attempt, chance) <= full <= 30.0
