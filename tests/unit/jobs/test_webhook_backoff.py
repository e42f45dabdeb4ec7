"""When webhooks are tried again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.webhook_backoff import DELAYS_S, JITTER, MOST_RETRY_AFTER_S, delay_s, retry_after_s

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
CHANCES = st.floats(0.0, 1.0)


def test_the_first_delays() -> None:
    assert [delay_s(n, 0.5) for n in (1, 2, 3, 4)] == [5.0, 30.0, 120.0, 600.0]


@given(st.lists(CHANCES, min_size=len(DELAYS_S), max_size=len(DELAYS_S)))
def test_an_event_is_tried_for_about_a_day_and_then_given_up(chances: list[float]) -> None:
    delays = [delay_s(n, chance) or 0.0 for n, chance in enumerate(chances, 1)]
    assert 18 * 3600 <= sum(delays) <= 30 * 3600
    assert delay_s(len(DELAYS_S) + 1, 0.5) is None


@given(st.integers(1, len(DELAYS_S)), CHANCES)
def test_jitter_is_bounded(tries: int, chance: float) -> None:
    delay = delay_s(tries, chance)
    assert delay is not None
    assert abs(delay / DELAYS_S[tries - 1] - 1) <= JITTER + 1e-9


@given(st.integers(1, len(DELAYS_S) - 1), CHANCES)
def test_no_delay_is_shorter_than_the_one_before(tries: int, chance: float) -> None:
    assert (delay_s(tries + 1, chance) or 0) >= (delay_s(tries, chance) or 0)


@given(st.integers(1, len(DELAYS_S)), CHANCES, st.floats(0.0, 1e9))
def test_a_receiver_can_ask_for_more_within_a_bound(tries: int, chance: float, asked_s: float) -> None:
    delay, own = delay_s(tries, chance, asked_s), delay_s(tries, chance)
    assert own is not None
    assert delay == max(own, min(asked_s, MOST_RETRY_AFTER_S))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("9" * 50, float("9" * 12)),
        ("Mon, 30 Nov 2026 12:01:30 GMT", 90.0),
        ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 30 Nov 2026 12:01:30 -0000", 90.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        (None, None),
    ],
)
def test_what_the_header_says(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW.timestamp()) == seconds


@given(st.text())
def test_no_header_raises(header: str) -> None:
    assert (retry_after_s(header, NOW.timestamp()) or 0.0) >= 0.0
