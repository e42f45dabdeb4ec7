"""The phases of a worker's end, over a real loop in a thread."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Iterator

import pytest

from tests.pace import Pace
from tests.support import wait_until
from workers.process.ending import BOUNDS, Bounds, Ending
from workers.process.loop import EngineLoop

SLACK_S = 0.5
"""On an idle machine."""
QUICK = Bounds(*(seconds / 5 for seconds in dataclasses.astuple(BOUNDS)))
PATIENT = Bounds(*(seconds * 20 for seconds in dataclasses.astuple(BOUNDS)))
"""For who comes to his end in time: on a busy machine that takes longer."""


class Stage:
    """An end, what it did, and when; seconds from the stage's making."""

    def __init__(
        self,
        *,
        drain_timeout_s: float = 60.0,
        closing_s: float = 0.0,
        fault: str = "",
        bounds: Bounds = QUICK,
    ) -> None:
        self.done: dict[str, float] = {}
        self.forced: list[int] = []
        self.began = time.monotonic()
        self.pace = Pace()
        self._closing_s, self._fault = closing_s, fault
        self.loop = EngineLoop()
        self.ending = Ending(
            self.loop,
            drain_timeout_s,
            announce=lambda: self.note("announced"),
            release=lambda: self.note("released"),
            close=self.close,
            force=self.force,
            bounds=bounds,
        )
        self.loop.start()

    def note(self, event: str) -> None:
        self.done.setdefault(event, time.monotonic() - self.began)

    def near(self, event: str, wanted_s: float) -> bool:
        """Whether an event happened when it should."""
        return wanted_s - 0.01 <= self.done[event] < wanted_s + self.pace.stretch(SLACK_S)

    def force(self, status: int) -> None:
        self.note("forced")
        self.forced.append(status)

    async def close(self) -> None:
        self.note("closing")
        if self._fault:
            raise ValueError(self._fault)
        await asyncio.sleep(self._closing_s)
        self.note("closed")

    def claims(self) -> None:
        """Celery takes messages, as a rule."""
        self.ending.on_begin(lambda: self.note("stopped claiming"))


@pytest.fixture
def stop_loops() -> Iterator[list[Stage]]:
    stages: list[Stage] = []
    yield stages
    for stage in stages:
        stage.loop.stop()


@pytest.fixture
def make(stop_loops: list[Stage]):
    def make(**options) -> Stage:
        stage = Stage(**options)
        stop_loops.append(stage)
        return stage

    return make


def test_an_idle_worker_drains_at_once(make) -> None:
    stage = make()
    stage.claims()
    stage.ending.drain()
    assert "stopped claiming" in stage.done
    assert stage.ending.finish() == 0
    assert list(stage.done) == ["stopped claiming", "announced", "closing", "closed"]
    assert stage.done["closed"] < stage.pace.stretch(SLACK_S)


def test_running_jobs_have_until_the_deadline_and_are_then_released(make) -> None:
    stage = make(drain_timeout_s=0.3, bounds=PATIENT)
    stage.claims()
    stage.ending.drain()
    wait_until(lambda: "released" in stage.done)
    assert stage.near("released", 0.3)
    assert stage.ending.finish() == 0
    assert list(stage.done) == ["stopped claiming", "announced", "released", "closing", "closed"]


def test_jobs_that_cannot_be_given_back_do_not_hold_up_the_end(make) -> None:
    """Redis is away, say: nothing ends by itself, and Celery does not return."""
    stage = make(closing_s=60.0)
    stage.claims()
    stage.ending.drain(0.2)
    wait_until(lambda: stage.forced)
    assert stage.forced == [0]
    assert stage.near("released", 0.2)
    assert stage.near("closing", 0.2 + QUICK.released_s)
    assert stage.near("forced", 0.2 + QUICK.forced_s)
    assert "closed" not in stage.done
    assert BOUNDS.released_s < BOUNDS.closed_s < BOUNDS.forced_s < 2.0


def test_the_close_has_the_time_that_the_jobs_did_not_need(make) -> None:
    stage = make(drain_timeout_s=60.0, closing_s=QUICK.closed_s + 0.3)
    stage.ending.drain()
    assert stage.ending.finish() == 0
    assert "closed" in stage.done
    assert not stage.forced


def test_of_several_deadlines_the_first_counts(make) -> None:
    stage = make()
    stage.ending.drain()
    stage.ending.drain(0.2)
    stage.ending.drain(50.0)
    wait_until(lambda: "released" in stage.done)
    assert stage.near("released", 0.2)
    assert stage.ending.finish() == 0


def test_a_second_order_cuts_a_close_short(make) -> None:
    stage = make(closing_s=60.0)
    stage.ending.drain()
    threading.Timer(0.2, stage.ending.drain, (0.0,)).start()
    assert stage.ending.finish() == 0
    assert time.monotonic() - stage.began < 0.2 + QUICK.closed_s + stage.pace.stretch(SLACK_S)


def test_a_worker_that_cannot_go_on_ends_with_status_1_and_soon(make) -> None:
    stage = make()
    stage.ending.drain()
    stage.ending.die("the engine died")
    stage.ending.die("and something else")
    wait_until(lambda: "released" in stage.done)
    assert stage.near("released", QUICK.die_s)
    assert (stage.ending.finish(), stage.ending.reason) == (1, "the engine died")


def test_celery_that_stops_by_itself_is_a_failure_and_one_that_was_told_is_not(make) -> None:
    told, broken = make(), make()
    told.ending.drain()
    told.ending.stopped_claiming()
    broken.ending.stopped_claiming()
    assert (told.ending.finish(), broken.ending.finish()) == (0, 1)


def test_an_end_that_begins_before_celery_is_there_stops_it_at_once(make) -> None:
    stage = make()
    stage.ending.drain()
    stage.claims()
    assert "stopped claiming" in stage.done
    assert stage.ending.finish() == 0


def test_a_failed_start_closes_without_haste(make) -> None:
    stage = make(closing_s=0.2)
    stage.ending.finish()
    assert list(stage.done) == ["closing", "closed"]
    assert not stage.ending.begun


def test_a_close_that_fails_ends_all_the_same(make) -> None:
    stage = make(fault="no")
    stage.ending.drain()
    assert stage.ending.finish() == 0


def test_a_loop_that_hangs_is_ended_by_force(make) -> None:
    stage = make()
    over = threading.Event()
    stage.loop.post(over.wait)
    try:
        stage.ending.die("a watchdog says so")
        wait_until(lambda: stage.forced)
    finally:
        over.set()
    assert stage.forced == [1]
    assert stage.near("forced", QUICK.die_s + QUICK.forced_s)


def test_an_order_that_is_heard_while_a_phase_runs_out_is_no_error(make) -> None:
    """The loop is busy while the second order comes and the first one's time runs out."""
    stage = make(closing_s=0.0)
    errors: list[str] = []

    async def note_errors() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))

    stage.loop.call(note_errors())
    stage.ending.drain(0.3)
    wait_until(lambda: "announced" in stage.done)
    busy = threading.Event()

    def be_busy() -> None:
        busy.set()
        time.sleep(0.6)

    stage.loop.post(be_busy)
    assert busy.wait(5)
    stage.ending.drain(0.0)
    wait_until(lambda: "released" in stage.done)
    assert stage.ending.finish() == 0
    assert errors == []
