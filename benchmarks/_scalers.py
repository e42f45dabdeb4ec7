"""The autoscalers of ``autoscale.py``, by the rules that Kubernetes and KEDA document."""

from __future__ import annotations

import math
from collections import deque

from _fleet import RUN_S, SLOTS, Fleet, Scaler

from jobs.scaling import Backlog, Due, Replica, by_backlog, by_deadline

__all__ = ["Cpu", "Fixed", "Keda", "Scaler"]

SYNC_S = 15
"""How often an HPA decides, and KEDA looks at a pool of no replicas."""

TOLERANCE = 0.1

CPU_IDLE, CPU_BUSY, CPU_TARGET = 0.1, 0.9, 0.7
"""CPU of a replica as a share of its request: without work, and while its engine has any. An engine's loop steps as fast for
one sequence as for a full batch, so CPU does not say how full it is.
"""

DOWN_S = 300
"""Stabilisation before a pool shrinks: Kubernetes's default, and the chart's."""

COOLDOWN_S = 300


class Fixed:
    """Always the same number."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def wanted(self, now: int, fleet: Fleet) -> int:
        """Return it."""
        del now, fleet
        return self._replicas


class _Hpa:
    """What every HPA has: the rhythm, the window before it shrinks, and the policies.

    Args:
        up: most replicas that it adds in ``up_s``, beside as many again as there are; ``down``: that it takes in ``down_s``.
    """

    def __init__(self, least: int, most: int, *, up: int, up_s: int, down: int | None, down_s: int) -> None:
        self._least, self._most = least, most
        self._up, self._up_s, self._down, self._down_s = up, up_s, down, down_s
        self._said: deque[tuple[int, int]] = deque()
        self._were: deque[tuple[int, int]] = deque()
        self.replicas = least

    def decide(self, now: int, asked: int) -> int:
        """Take a recommendation, and return the number of replicas."""
        self._said.append((now, asked))
        while self._said[0][0] <= now - DOWN_S:
            self._said.popleft()
        if asked < self.replicas:
            asked = min(self.replicas, max(one for _, one in self._said))
        self._were.append((now, self.replicas))
        while self._were[0][0] < now - max(self._up_s, self._down_s):
            self._were.popleft()
        then_up = min(one for at, one in self._were if at >= now - self._up_s)
        then_down = max(one for at, one in self._were if at >= now - self._down_s)
        ceiling = max(2 * then_up, then_up + self._up)
        floor = 0 if self._down is None else then_down - self._down
        self.replicas = max(self._least, floor, min(self._most, ceiling, asked))
        return self.replicas


class Cpu:
    """An HPA on the CPU of the replicas."""

    def __init__(self, most: int) -> None:
        self._hpa = _Hpa(1, most, up=4, up_s=15, down=None, down_s=15)

    def wanted(self, now: int, fleet: Fleet) -> int:
        """Look at the replicas that are ready; the others count as idle if it would grow."""
        if now % SYNC_S or not fleet.replicas:
            return self._hpa.replicas
        ready, all_ = fleet.ready(now), fleet.staying
        usage = sum(CPU_BUSY if one.running else CPU_IDLE for one in ready)
        ratio = usage / max(1, len(ready)) / CPU_TARGET
        asked = len(all_)
        if ratio > 1 + TOLERANCE:
            whole = usage / max(1, len(all_)) / CPU_TARGET
            asked = math.ceil(whole * len(all_)) if whole > 1 + TOLERANCE else asked
        elif ratio < 1 - TOLERANCE:
            asked = math.ceil(ratio * len(ready))
        return self._hpa.decide(now, asked)


class Keda:
    """KEDA on the backlog, down to none.

    Args:
        least: replicas that stay; 0: it may sleep.
        target: jobs for each slot.
        start_s: with the deadlines' signal: how long a replica takes to start; None: without.
    """

    def __init__(self, least: int, most: int, target: float, start_s: int | None) -> None:
        self._least, self._target, self._start_s = least, target, start_s
        self._hpa = _Hpa(1, most, up=2, up_s=30, down=1, down_s=60)
        self._awake, self._active_at = bool(least), 0

    def wanted(self, now: int, fleet: Fleet) -> int:
        """Ask for the larger number of both signals."""
        if now % SYNC_S:
            return self._hpa.replicas if self._awake else 0
        value = len(fleet.calls) + len(fleet.rows) + fleet.running
        if value:
            self._active_at = now
            self._awake = True
        elif not self._least and now - self._active_at >= COOLDOWN_S:
            self._awake, self._hpa.replicas = False, 1
        if not self._awake:
            return 0
        here = self._hpa.replicas
        ratio = value / (SLOTS * self._target * here)
        asked = here if abs(ratio - 1) <= TOLERANCE else by_backlog(value, SLOTS, self._target)
        return self._hpa.decide(now, max(asked, self._urged(now, fleet)))

    def _urged(self, now: int, fleet: Fleet) -> int:
        if self._start_s is None:
            return 0
        dues = tuple(Due(in_s, jobs, RUN_S) for in_s, jobs in fleet.dues(now))
        backlog = Backlog(
            queued=len(fleet.calls) + len(fleet.rows),
            running=fleet.running,
            workers=len(fleet.ready(now)),
            dues=dues,
        )
        return by_deadline(backlog, Replica(SLOTS, self._start_s))
