"""How many workers a pool needs for what waits: the rule behind ``GET /v1/autoscaling/{pool}``. Pure.

A worker is a *replica* here, as an autoscaler calls it. Rows of batches count as jobs, and chunks do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

TARGET: Final = 0.8
"""Jobs for each slot, if nobody says otherwise: a fifth of the slots stays free for what comes while a replica starts."""


@dataclass(frozen=True, slots=True)
class Due:
    """Jobs that wait, and that start in time if their last one does.

    Attributes:
        in_s: until the first deadline of a lane, or the end of a batch's window. It may be over.
        jobs: those that wait in that lane, and in the lanes before it.
        run_s: their mean run; None: not measured.
    """

    in_s: float
    jobs: int
    run_s: float | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """The work of a pool at one moment.

    Attributes:
        queued: jobs that wait; ``running``: jobs on engines.
        slots: jobs that the live workers run at once.
        workers: live workers.
        oldest_s: how long the oldest of the waiting jobs has waited; 0: none waits.
        dues: its deadlines.
    """

    queued: int = 0
    running: int = 0
    slots: int = 0
    workers: int = 0
    oldest_s: float = 0.0
    dues: tuple[Due, ...] = ()

    @property
    def value(self) -> int:
        """Jobs that wait or run: what autoscalers compare with the slots."""
        return self.queued + self.running

    @property
    def deadline_in_s(self) -> float | None:
        """Until the first deadline; None: no job that waits has one."""
        return min((due.in_s for due in self.dues), default=None)


@dataclass(frozen=True, slots=True)
class Replica:
    """What one more worker brings.

    Attributes:
        slots: jobs that it runs at once; None: no worker of the pool ever registered, and nobody says it.
        start_s: how long its engine takes to start; 0: not measured.
    """

    slots: int | None = None
    start_s: float = 0.0


def by_backlog(value: int, slots: int, target: float = TARGET) -> int:
    """Return the replicas that are filled to a target.

    Args:
        value: jobs that wait or run.
        slots: of one replica.
        target: jobs for each slot; above 1 they run one after the other.
    """
    return math.ceil(value / (slots * target))


def by_deadline(backlog: Backlog, replica: Replica) -> int:
    """Return the replicas with which the jobs of each deadline start before it; 0: nothing urges.

    It assumes that jobs take the mean run, one after the other in each slot, and that lower lanes wait. It never asks for
    more than runs all jobs of a deadline at once, and for that many if the deadline cannot be met otherwise.
    """
    return max((_by_one(backlog, due, replica) for due in backlog.dues), default=0)


def _by_one(backlog: Backlog, due: Due, replica: Replica) -> int:
    run_s, slots = due.run_s, replica.slots
    if not due.jobs or run_s is None or slots is None:
        return 0
    jobs = due.jobs + backlog.running
    at_once = math.ceil(jobs / slots)

    def enough(time_s: float) -> int:
        return at_once if time_s <= run_s else min(at_once, math.ceil(jobs * run_s / slots / time_s))

    wanted = enough(due.in_s)
    return wanted if wanted <= backlog.workers else max(backlog.workers, enough(due.in_s - replica.start_s))


def wanted(backlog: Backlog, replica: Replica, target: float = TARGET) -> int:
    """Return how many replicas a pool needs now: for its backlog, and for its deadlines.

    Without known slots, one replica runs whatever there is: it tells how many slots it has.
    """
    if replica.slots is None:
        return min(1, backlog.value)
    return max(by_backlog(backlog.value, replica.slots, target), by_deadline(backlog, replica))
