"""The pace of bulk, on a simulated clock and an engine that is a list of ends."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from workers.admission.pace import BURST, FILL_S, Pace

STEP_S = 0.012
"""A step of the engine. Jobs end at its end, and the worker asks the pace after it."""

SLOTS = 192


@dataclass
class Engine:
    """Runs jobs of the given lengths in its slots. What the pace lets in beyond them waits."""

    length_s: Callable[[], float]
    ahead: int = 0
    slots: int = SLOTS
    now_s: float = 0.0
    entries: list[int] = field(default_factory=list)
    """By step."""
    ends: int = 0
    busy: float = 0.0
    """Seconds of slots."""

    def __post_init__(self) -> None:
        self.pace = Pace(self.slots + self.ahead, self.ahead)
        self._running: list[float] = []
        self._held = 0

    def enter(self, count: int) -> None:
        for _ in range(count):
            self.pace.enter(self.now_s)
        self._held += count
        while self._held and len(self._running) < self.slots:
            self._held -= 1
            heapq.heappush(self._running, self.now_s + self.length_s())

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.busy += len(self._running) * STEP_S
            self.now_s += STEP_S
            while self._running and self._running[0] <= self.now_s:
                heapq.heappop(self._running)
                self.ends += 1
                self.pace.leave(self.now_s)
            self.enter(0)  # those that wait inside take the slots that came free
            free = self.slots + self.ahead - len(self._running) - self._held
            count = self.pace.room(free, self.now_s)
            self.enter(count)
            self.entries.append(count)

    @property
    def full(self) -> bool:
        return len(self._running) == self.slots

    def waves(self, seconds: float) -> int:
        """Return the most jobs that entered within a tenth of a second, in the last ``seconds``."""
        last = self.entries[-round(seconds / STEP_S) :]
        width = round(0.1 / STEP_S)
        return max(sum(last[at : at + width]) for at in range(len(last) - width))


@pytest.mark.parametrize("ahead", [0, 32])
@pytest.mark.parametrize("length_s", [0.4, 1.5, 6.0])
def test_equal_jobs_that_start_as_one_wave_drift_apart(length_s: float, ahead: int) -> None:
    engine = Engine(lambda: length_s, ahead)
    engine.enter(SLOTS + ahead)  # which the pace has not seen
    engine.run(4 * length_s)
    evenly = SLOTS / length_s * 0.1
    for _ in range(5):
        engine.busy, began_s = 0.0, engine.now_s
        engine.run(4 * length_s)
    assert engine.waves(4 * length_s) <= 1.2 * evenly + BURST
    assert engine.busy >= 0.999 * SLOTS * (engine.now_s - began_s)


@pytest.mark.parametrize("ahead", [0, 32])
@pytest.mark.parametrize("mean_s", [0.1, 0.4, 1.5, 6.0])
@pytest.mark.parametrize("spread", [0.0, 0.2, 0.7, 1.2])
def test_the_pace_costs_less_than_a_hundredth_of_the_throughput(
    mean_s: float, ahead: int, spread: float
) -> None:
    """Lengths are log-normal; 0.7 is how unequal real completions are."""
    rng = random.Random(7)
    engine = Engine(lambda: mean_s * rng.lognormvariate(-spread * spread / 2, spread), ahead)
    engine.run(10 * mean_s + FILL_S)
    engine.busy, began_s = 0.0, engine.now_s
    engine.run(40 * mean_s)
    assert engine.busy >= (0.99 if ahead == 0 else 0.999) * SLOTS * (engine.now_s - began_s)


def test_an_empty_engine_fills_in_a_second_and_not_at_once() -> None:
    engine = Engine(lambda: 60.0)
    engine.run(0.2)
    assert sum(engine.entries) <= 0.25 * SLOTS + BURST
    engine.run(FILL_S)
    assert engine.full


def test_short_jobs_reach_the_engines_rate_within_moments() -> None:
    """Without a rate that follows the jobs, a cold engine would do SLOTS a second, whatever it can."""
    engine = Engine(lambda: STEP_S)
    engine.run(0.5)
    before = engine.ends
    engine.run(1.0)
    assert engine.ends - before >= 0.95 * SLOTS / STEP_S


def test_longer_jobs_slow_the_pace_and_shorter_ones_raise_it() -> None:
    length = [0.5]
    engine = Engine(lambda: length[0], ahead=32)
    engine.run(5.0)
    rates = [engine.pace.rate]
    length[0] = 5.0
    engine.run(20.0)
    rates.append(engine.pace.rate)
    length[0] = 0.1
    engine.run(10.0)
    rates.append(engine.pace.rate)
    assert rates[1] < rates[0] / 5
    assert rates[2] > 2 * rates[0]


def test_few_slots_are_not_paced() -> None:
    pace = Pace(BURST)
    assert pace.room(BURST, 0.0) == BURST


def test_who_finds_no_room_learns_when_to_ask_again() -> None:
    pace = Pace(SLOTS)
    for _ in range(pace.room(SLOTS, 0.0)):
        pace.enter(0.0)
    assert pace.room(SLOTS - BURST, 0.0) == 0
    wait_s = pace.wait_s()
    assert 0.0 < wait_s < 2 * FILL_S / SLOTS
    assert pace.room(SLOTS - BURST, wait_s) == 1
