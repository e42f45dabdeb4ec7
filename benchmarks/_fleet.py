"""The model of ``autoscale.py``: a day of work, and a fleet of replicas that runs it, second by second."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

SLOTS = 16
"""Jobs that a replica runs at once."""

RUN_S = 20
"""Mean run of a job; each takes half to one and a half of that."""

CALL_S = 120
"""A call that has not started by then is refused: ``queue_timeout_s``."""

NIGHT = 3 / 3600
"""Calls a second that come at any time of the day."""

DRAIN_S = 120
"""What a replica that goes may take to end its jobs; the rest returns to the head of the queue."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that arrive together, and when they must have ended, in seconds of the day."""

    at: int
    rows: int
    due: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A day: calls by second, and batches."""

    calls: tuple[int, ...]
    batches: tuple[Batch, ...]


def day(hours: int, seed: int) -> Plan:
    """Return a day that begins at midnight: a hump of calls over office hours, ten bursts of some minutes, nights nearly
    without; and batches, most of them in the evening.
    """
    chance = random.Random(seed)
    length = hours * 3600
    bursts = [
        (chance.randrange(length), chance.randrange(120, 900), chance.uniform(1.5, 4)) for _ in range(10)
    ]
    calls = []
    for second in range(length):
        hour = second / 3600 % 24
        by_day = max(0.0, math.sin(math.pi * (hour - 7) / 13)) if 7 <= hour <= 20 else 0.0
        rate = NIGHT + 2.2 * by_day**2
        rate += sum(more for at, lasts, more in bursts if at <= second < at + lasts)
        calls.append(_poisson(chance, rate))
    batches = [
        Batch(at, rows, at + int(hours_ * 3600))
        for at, rows, hours_ in (
            (int(chance.uniform(0.05, 0.75) * length), chance.randrange(3_000, 30_000), chance.uniform(2, 8))
            for _ in range(max(1, hours // 4))
        )
    ]
    return Plan(tuple(calls), tuple(sorted(batches, key=lambda one: one.at)))


def _poisson(chance: random.Random, mean: float) -> int:
    limit, count, product = math.exp(-mean), 0, chance.random()
    while product > limit:
        count += 1
        product *= chance.random()
    return count


@dataclass(slots=True, eq=False)
class Replica:
    """One worker: when it is ready, what it runs, and until when it may drain; None: it stays."""

    ready_at: int
    running: int = 0
    leaves_by: int | None = None


@dataclass(slots=True)
class Seen:
    """What a day looked like: waits of calls, those that were refused, GPU seconds, and each batch's due time and end."""

    call_waits: list[float] = field(default_factory=list)
    calls_late: int = 0
    gpu_s: int = 0
    batches: list[tuple[int, int | None]] = field(default_factory=list)


class Scaler(Protocol):
    """Chooses how many replicas there are to be."""

    def wanted(self, now: int, fleet: Fleet) -> int:
        """Return the number from this second on."""


class Fleet:
    """Runs a day.

    Args:
        start_s: from the decision to a replica that takes jobs.
    """

    def __init__(self, plan: Plan, scaler: Scaler, start_s: int) -> None:
        self._plan, self._scaler, self._start_s = plan, scaler, start_s
        self._chance = random.Random(7)
        self.replicas: list[Replica] = []
        self.calls: deque[int] = deque()  # when each came
        self.rows: deque[int] = deque()  # of which batch each is
        self._left = [one.rows for one in plan.batches]
        self._ends: dict[int, list[tuple[Replica, int]]] = {}
        self._seen = Seen(batches=[(one.due, None) for one in plan.batches])
        self._next = 0

    def run(self) -> Seen:
        """Run it to the end of the day, and then until every batch is done or a day late."""
        self.replicas = [Replica(0) for _ in range(self._scaler.wanted(0, self))]
        length, now = len(self._plan.calls), 0
        while now < length or (any(self._left) and now < length + 86_400):
            self._end(now)
            self._arrive(now)
            self._scale(now, self._scaler.wanted(now, self))
            self._start(now)
            self._seen.gpu_s += len(self.replicas)
            now += 1
        return self._seen

    @property
    def staying(self) -> list[Replica]:
        """The replicas that do not drain."""
        return [one for one in self.replicas if one.leaves_by is None]

    def ready(self, now: int) -> list[Replica]:
        """Return those of them that take jobs."""
        return [one for one in self.staying if one.ready_at <= now]

    @property
    def running(self) -> int:
        """Jobs on engines."""
        return sum(one.running for one in self.replicas)

    def dues(self, now: int) -> list[tuple[float, int]]:
        """Return the deadlines, in how many seconds, each with the jobs that wait up to it."""
        found: list[tuple[float, int]] = []
        if self.calls:
            found.append((self.calls[0] + CALL_S - now, len(self.calls)))
        waiting = [self._plan.batches[number].due for number in range(self._next) if self._left[number]]
        if self.rows and waiting:
            found.append((min(waiting) - now, len(self.calls) + len(self.rows)))
        return found

    def _arrive(self, now: int) -> None:
        if now < len(self._plan.calls):
            self.calls.extend([now] * self._plan.calls[now])
        while self._next < len(self._plan.batches) and self._plan.batches[self._next].at <= now:
            self.rows.extend([self._next] * self._plan.batches[self._next].rows)
            self._next += 1
        while self.calls and now - self.calls[0] > CALL_S:
            self.calls.popleft()
            self._seen.calls_late += 1

    def _start(self, now: int) -> None:
        """Give waiting jobs to free slots: calls first, to the replica with the fewest jobs."""
        free = sorted(self.ready(now), key=lambda one: one.running)
        for replica in free:
            while replica.running < SLOTS and (self.calls or self.rows):
                if self.calls:
                    self._seen.call_waits.append(now - self.calls.popleft())
                    number = -1
                else:
                    number = self.rows.popleft()
                replica.running += 1
                runs = RUN_S // 2 + self._chance.randrange(RUN_S + 1)
                self._ends.setdefault(now + runs, []).append((replica, number))

    def _end(self, now: int) -> None:
        for replica, number in self._ends.pop(now, ()):
            replica.running -= 1
            if number >= 0:
                self._left[number] -= 1
                if not self._left[number]:
                    self._seen.batches[number] = (self._plan.batches[number].due, now)
        self.replicas = [one for one in self.replicas if one.leaves_by is None or one.running]

    def _scale(self, now: int, wanted: int) -> None:
        """Start replicas, or have the least busy ones leave. Runs are shorter than a drain, so none is cut off."""
        staying = self.staying
        for _ in range(wanted - len(staying)):
            self.replicas.append(Replica(now + self._start_s))
        for one in sorted(staying, key=lambda one: (one.ready_at <= now, one.running))[
            : max(0, len(staying) - wanted)
        ]:
            one.leaves_by = now + DRAIN_S
        self.replicas = [one for one in self.replicas if one.leaves_by is None or one.running]
