"""When a call is tried again, and after how long: no socket, no clock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from penstock._core import flows
from penstock._core.protocol import Reply, retry_after_s
from penstock._core.retry import RetryPolicy
from penstock.errors import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    WaitTimeoutError,
    status_error_class,
)


def refused(status: int, retry_after: float | None = None):
    return status_error_class(status)("no", status=status, retry_after=retry_after)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (APIConnectionError("reset"), True),
        (APITimeoutError("late"), True),
        (APIResponseError("not JSON"), False),
        *((refused(status), True) for status in (408, 429, 502, 503, 504)),
        *((refused(status), False) for status in (400, 401, 403, 404, 405, 409, 413, 422, 500, 501)),
    ],
)
def test_what_is_tried_again(error, again):
    assert (RetryPolicy().delay_s(error, 0) is not None) is again


@pytest.mark.parametrize("tries", [0, 1, 4])
def test_tries_are_bounded(tries):
    policy = RetryPolicy(tries)
    assert [policy.delay_s(refused(503), n) is not None for n in range(tries + 2)] == [
        *[True] * tries,
        False,
        False,
    ]


def test_pauses_double_up_to_the_cap():
    policy = RetryPolicy(8, base_s=0.5, cap_s=8.0, rand=lambda: 1.0)
    assert [policy.delay_s(refused(503), n) for n in range(6)] == [0.5, 1, 2, 4, 8, 8]
    assert policy.backoff_s(10_000) == 8


def test_jitter_takes_away_at_most_half():
    low, high = RetryPolicy(rand=lambda: 0.0), RetryPolicy(rand=lambda: 1.0)
    assert low.backoff_s(3) == high.backoff_s(3) / 2


@pytest.mark.parametrize("rand", [0.0, 0.999])
def test_retry_after_is_never_undercut(rand):
    delay = RetryPolicy(rand=lambda: rand).delay_s(refused(429, 20.0), 0)
    assert delay is not None
    assert 20 <= delay <= 22


def test_a_pause_above_two_minutes_is_the_callers_decision():
    assert RetryPolicy().delay_s(refused(429, 121.0), 0) is None


def test_wait_asks_for_long_polls_and_sleeps_the_rest():
    now = 0.0
    flow = flows.wait("job_1", 90.3, check=True, policy=RetryPolicy(), clock=lambda: now)
    asked, step = [], next(flow)
    with pytest.raises(WaitTimeoutError):  # noqa: PT012  # the loop is the flow's driver
        while True:
            if isinstance(step, flows.Sleep):
                now += step.seconds
                step = flow.send(None)
            else:
                assert isinstance(step, flows.Send)
                asked.append(step.request.params.get("wait"))
                now += step.request.extra_timeout_s
                step = flow.send(Reply(200, {}, b'{"id": "job_1", "state": "running"}'))
    assert asked[:2] == ["60", "30"]
    assert set(asked[2:]) == {None}
    assert now == pytest.approx(90.3)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("soon", None),
        ("-1", None),
        ("Mon, 23 Nov 2026 06:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 05:00:00 GMT", 0.0),
    ],
)
def test_retry_after_header(header, seconds):
    assert retry_after_s(header, datetime(2026, 11, 23, 6, 0, 0, tzinfo=UTC)) == seconds
