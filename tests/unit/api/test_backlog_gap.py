"""How often an api process reads the backlogs of pools for its gauges."""

from __future__ import annotations

import pytest

from api.background import BACKLOG_GAP_S, backlog_gap_s


@pytest.mark.parametrize(("took_s", "expected"), [(0.0, 0.0), (0.002, 0.1), (0.1, 5.0), (0.5, BACKLOG_GAP_S)])
def test_what_takes_longer_is_read_less_often(took_s: float, expected: float) -> None:
    assert backlog_gap_s(took_s) == pytest.approx(expected)
