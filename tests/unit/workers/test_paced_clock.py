"""The device of a paced engine."""

from __future__ import annotations

import time

import pytest

from tests.support import wait_until
from workers.engines.vllm.paced_clock import Clock, Later, done
from workers.engines.vllm.step_cost import StepCost


def test_steps_follow_one_another_on_the_clock() -> None:
    clock = Clock(StepCost(10.0, 1.0, 0.1))
    first, second = clock.run(3, 0), clock.run(0, 50)
    assert first.start_s == first.given_s
    assert first.end_s == first.start_s + 13.0
    assert (second.start_s, second.end_s) == (first.end_s, first.end_s + 15.0)
    assert second.given_s < second.start_s
    assert list(clock.steps) == [first, second]


def test_an_idle_device_begins_at_once() -> None:
    clock = Clock(StepCost(1e-9, 0, 0))
    before = clock.run(1, 0)
    wait_until(lambda: time.monotonic() > before.end_s)
    step = clock.run(1, 0)
    assert step.start_s == step.given_s


def test_a_result_is_there_at_its_time_and_no_sooner() -> None:
    assert not Later("tokens", time.monotonic() + 60).done()
    ready_s = time.monotonic() + 0.02
    later = Later("tokens", ready_s)
    assert later.result() == "tokens"
    assert time.monotonic() >= ready_s
    assert later.done()
    assert later.result(timeout=0) == "tokens"


def test_a_wait_for_a_result_has_an_end() -> None:
    with pytest.raises(TimeoutError):
        Later("tokens", time.monotonic() + 60).result(timeout=0.001)


def test_a_result_that_is_there() -> None:
    assert (done(3).done(), done(3).result()) == (True, 3)
