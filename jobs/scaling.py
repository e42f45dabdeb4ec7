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
class Backlog:
    """The work of a pool at one moment.

    Attributes:
        queued: jobs that wait; ``running``: jobs on engines.
        slots: jobs that the live workers run at once.
        workers: live workers.
        oldest_s: how long the oldest of the waiting jobs has waited; 0: none waits.
        deadline_in_s: until the first deadline of a waiting job, or of a batch with rows left; None: none has one. It may be
            over.
        run_s: mean run of a job; None: not measured.
    """

    queued: int = 0
    running: int = 0
    slots: int = 0
    workers: int = 0
    oldest_s: float = 0.0
    deadline_in_s: float | None = None
    run_s: float | None = None

    @property
    def value(self) -> int:
        """Jobs that wait or run: what autoscalers compare with the slots."""
        return self.queued + self.running


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
    """Return the replicas with which all that waits now starts before the first deadline; 0: nothing urges.

    It assumes that jobs take the mean run, one after the other in each slot. It is never more than runs all jobs at once,
    and that many if the deadline cannot be met otherwise.
    """
    deadline_s, run_s, slots = backlog.deadline_in_s, backlog.run_s, replica.slots
    if not backlog.queued or deadline_s is None or run_s is None or slots is None:
        return 0
    at_once = math.ceil(backlog.value / slots)

    def enough(time_s: float) -> int:
        return at_once if time_s <= run_s else min(at_once, math.ceil(backlog.value * run_s / slots / time_s))

    wanted = enough(deadline_s)
    return wanted if wanted <= backlog.workers else max(backlog.workers, enough(deadline_s - replica.start_s))


def wanted(backlog: Backlog, replica: Replica, target: float = TARGET) -> int:
    """Return how many replicas a pool needs now: for its backlog, and for its deadlines.

    Without known slots, one replica runs whatever there is: it tells how many slots it has.
    """
    if replica.slots is None:
        return min(1, backlog.value)
    return max(by_backlog(backlog.value, replica.slots, target), by_deadline(backlog, replica))
