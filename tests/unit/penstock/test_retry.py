"""When a call is tried again, and after how long: no socket, no clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from penstock import Retry
from penstock._core import batch_flows, flows
from penstock._core.replies import Reply, retry_after_s
from penstock._core.requests import Request
from penstock._core.retry import Retries, RetryPolicy
from penstock.errors import (
    APIConnectionError,
    APIResponseError,
    APITimeoutError,
    BatchWaitTimeoutError,
    PenstockError,
    UnavailableError,
    WaitTimeoutError,
    status_error_class,
)


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def refused(status: int, retry_after: float | None = None):
    return status_error_class(status)("no", status=status, retry_after=retry_after)


def pauses(policy: RetryPolicy, error, most: int = 50, deadline: float | None = None) -> list[float]:
    """The pauses between tries that all fail so and take no time, until there is no further try."""
    clock = Clock()
    retries = Retries(replace(policy, clock=clock), "GET /x", deadline and clock.now + deadline)
    found: list[float] = []
    while len(found) < most:
        try:
            pause_s = retries.pause_s(error)
        except type(error):
            break
        found.append(pause_s)
        clock.now += pause_s
    return found


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
    assert bool(pauses(RetryPolicy(), error)) is again


def test_a_server_may_say_that_another_try_is_useless():
    error = UnavailableError("expired", status=503, headers={"x-should-retry": "false"})
    assert pauses(RetryPolicy(), error) == []


@pytest.mark.parametrize("tries", [0, 1, 4])
def test_tries_are_bounded(tries):
    assert len(pauses(RetryPolicy(tries), refused(503))) == tries


def test_pauses_double_up_to_the_cap():
    policy = RetryPolicy(6, base_s=0.5, cap_s=8.0, rand=lambda: 1.0)
    assert pauses(policy, refused(503)) == [0.5, 1, 2, 4, 8, 8]
    assert policy.backoff_s(10_000) == 8


def test_jitter_takes_away_at_most_half():
    low, high = RetryPolicy(rand=lambda: 0.0), RetryPolicy(rand=lambda: 1.0)
    assert low.backoff_s(3) == high.backoff_s(3) / 2


@pytest.mark.parametrize("rand", [0.0, 0.999])
def test_retry_after_is_never_undercut(rand):
    found = pauses(RetryPolicy(1, rand=lambda: rand), refused(429, 20.0))
    assert len(found) == 1
    assert 20 <= found[0] <= 22


def test_a_pause_beyond_the_time_for_retries_is_the_callers_decision():
    assert pauses(RetryPolicy(), refused(429, 121.0)) == []
    assert pauses(RetryPolicy(max_retry_s=5), refused(429, 6.0)) == []


def test_the_tries_of_a_call_have_one_time_for_all():
    assert sum(pauses(RetryPolicy(50), refused(429, 50.0))) <= 120
    assert sum(pauses(RetryPolicy(50), refused(502))) == pytest.approx(120)
    assert sum(pauses(RetryPolicy(50, max_retry_s=7), refused(502))) == pytest.approx(7)


def test_a_deadline_is_the_time_of_the_last_try():
    assert sum(pauses(RetryPolicy(50), refused(502), deadline=2)) == pytest.approx(2)
    assert pauses(RetryPolicy(50), refused(429, 3.0), deadline=2) == []


def test_a_success_forgets_the_failures():
    retries = Retries(RetryPolicy(1), "the stream")
    for _ in range(3):
        retries.pause_s(refused(503))
        retries.reset()
    retries.pause_s(refused(503))
    with pytest.raises(UnavailableError):
        retries.pause_s(refused(503))


def test_each_retry_is_reported_before_its_pause():
    told: list[Retry] = []
    error = refused(503)
    found = pauses(RetryPolicy(2, on_retry=told.append), error)
    assert [(one.what, one.error, one.number, one.max_retries, one.delay_s) for one in told] == [
        ("GET /x", error, 1, 2, found[0]),
        ("GET /x", error, 2, 2, found[1]),
    ]


Act = Callable[[Request], Reply | PenstockError]


def carry_out(flow: flows.Flow[Any], clock: Clock, act: Act) -> Any:
    """Drive a flow on a clock of its own; ``act`` answers the requests."""
    try:
        step = next(flow)
        while True:
            if isinstance(step, flows.Sleep):
                clock.now += step.seconds
                step = flow.send(None)
                continue
            assert isinstance(step, flows.Send)
            got = act(step.request)
            step = flow.throw(got) if isinstance(got, PenstockError) else flow.send(got)
    except StopIteration as stop:
        return stop.value


RUNNING = Reply(200, {}, b'{"id": "job_1", "state": "running"}')


def test_wait_asks_for_long_polls_and_sleeps_the_rest():
    clock, asked = Clock(), []

    def act(request: Request) -> Reply:
        asked.append(request.params.get("wait"))
        clock.now += request.extra_timeout_s
        return RUNNING

    flow = flows.wait("job_1", 90.3, check=True, policy=RetryPolicy(clock=clock))
    with pytest.raises(WaitTimeoutError):
        carry_out(flow, clock, act)
    assert asked[:2] == ["60", "30"]
    assert set(asked[2:]) == {None}
    assert clock.now == pytest.approx(190.3)


BATCH = Reply(200, {}, json.dumps({"id": "batch_1", "object": "batch", "status": "in_progress"}).encode())
WAITS = [(flows.wait, RUNNING, WaitTimeoutError), (batch_flows.wait, BATCH, BatchWaitTimeoutError)]


@pytest.mark.parametrize("wait", [flows.wait, batch_flows.wait])
@pytest.mark.parametrize("took_s", [0.0, 30.0], ids=["refused", "no answer"])
def test_a_wait_for_two_seconds_ends_then_although_nobody_answers(wait, took_s):
    clock = Clock()

    def act(request: Request) -> PenstockError:
        clock.now += min(took_s, request.max_s)
        return APIConnectionError("nobody")

    with pytest.raises(APIConnectionError):
        carry_out(wait("x_1", 2.0, check=True, policy=RetryPolicy(10, clock=clock)), clock, act)
    assert 2.0 <= clock.now - 100.0 <= 2.0 + flows.GRACE_S + 0.01


@pytest.mark.parametrize(("wait", "seen", "kind"), WAITS)
def test_a_server_that_went_away_meanwhile_leaves_what_was_seen_last(wait, seen, kind):
    clock, answers = Clock(), [seen]

    def act(request: Request) -> Reply | PenstockError:
        return answers.pop() if answers else APIConnectionError("gone")

    with pytest.raises(kind, match="when last seen: gone") as caught:
        carry_out(wait("x_1", 3.0, check=True, policy=RetryPolicy(10, clock=clock)), clock, act)
    assert isinstance(caught.value.__cause__, APIConnectionError)
    assert clock.now - 100.0 <= 3.0 + flows.GRACE_S


@pytest.mark.parametrize(
    ("outcome", "tries"),
    [
        (Reply(502, {}, b""), 1),
        (Reply(503, {}, b""), 1),
        (Reply(504, {}, b""), 1),
        (APIConnectionError("reset"), 1),
        (APITimeoutError("late"), 1),
        (APIConnectionError("refused", sent=False), 5),
        (Reply(429, {}, b""), 5),
        (Reply(500, {}, b""), 1),
    ],
)
def test_what_may_not_happen_twice_is_repeated_only_if_it_did_not_arrive(outcome, tries):
    clock, sent = Clock(), []

    def act(request: Request) -> Reply | PenstockError:
        sent.append(request)
        return outcome

    request = Request("DELETE", "/x", at_most_once=True)
    with pytest.raises(PenstockError) as caught:
        carry_out(flows.call(request, RetryPolicy(clock=clock)), clock, act)
    assert len(sent) == tries
    said = "DELETE /x may have been carried out, so it was not sent again" in getattr(
        caught.value, "__notes__", []
    )
    assert said is (tries == 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_what_was_refused_was_not_carried_out(status):
    clock = Clock()
    request = Request("POST", "/x", at_most_once=True)
    with pytest.raises(PenstockError) as caught:
        carry_out(flows.call(request, RetryPolicy(clock=clock)), clock, lambda _: Reply(status, {}, b""))
    assert not hasattr(caught.value, "__notes__")


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
