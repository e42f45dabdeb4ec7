"""The lane controller: how many bulk jobs may be in flight now. A pure decision over counts and the engine's own signals.

Strict order ends at the pop: if bulk jobs fill a worker's slots, an interactive job waits until one of them ends. So a share
of the slots is never given to bulk, and the rest follows AIMD (additive increase, multiplicative decrease; D.-M. Chiu and
R. Jain, 1989) on the signs of congestion that hurt interactive users: requests that wait inside the engine, a full KV cache,
preemptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

KV_FULL = 0.95
"""KV-cache use from which on bulk is held back."""

PATIENCE = 3
"""Adjustments in a row at which requests must wait in the engine. A new request always waits for the step that is under way,
which is no congestion."""


class LimitReason(StrEnum):
    """Why the limit is as it is."""

    OPEN = "open"
    WAITING = "waiting"
    KV_CACHE = "kv_cache"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True)
class Signals:
    """The input of a decision.

    Attributes:
        bulk: bulk jobs on this worker.
        others: its other jobs.
        waiting: requests that the engine holds and has not scheduled; None: it does not say.
        kv_cache_usage: 0.0 to 1.0; None: it does not say.
        preemptions: since the start; None: it does not say.
    """

    bulk: int
    others: int
    waiting: int | None = None
    kv_cache_usage: float | None = None
    preemptions: int | None = None


class LaneController:
    """Says how many more bulk jobs one worker may take.

    Args:
        capacity: jobs that it runs at once.
        reserve: share of the capacity that bulk never gets, from 0.0 to 1.0 (exclusive). At least one slot is bulk's.
        interval_s: seconds between adjustments; signals do not change faster than the engine's steps.
        on_adjust: called with the reason of each adjustment.

    Attributes:
        reserved: slots that bulk never gets.
        ceiling: the most slots that bulk ever gets.
        headroom: slots kept free beyond the interactive jobs, once those fill what is reserved for them.
        limit: slots that bulk may have now.
    """

    def __init__(
        self,
        capacity: int,
        reserve: float,
        interval_s: float = 0.1,
        on_adjust: Callable[[LimitReason], None] | None = None,
    ) -> None:
        self.capacity = capacity
        self.reserved = min(math.ceil(capacity * reserve), capacity - 1)
        self.ceiling = capacity - self.reserved
        self.headroom = max(1, capacity // 16)
        self._interval_s = interval_s
        self._on_adjust = on_adjust
        self._adjusted_s = float("-inf")
        self._preemptions = 0
        self._waited = 0
        self.limit = self.ceiling
        self.reason = LimitReason.OPEN

    def free(self, signals: Signals, now_s: float, *, overcommit: bool = False) -> int:
        """Return how many bulk jobs may be taken now; never negative.

        Args:
            signals: as of now.
            now_s: seconds of a monotonic clock.
            overcommit: admit a few more than run at once, if bulk may have every slot and no other job is here. They wait
                inside the engine, so that no step runs with an empty slot between the end of one and the start of the next.
        """
        if now_s - self._adjusted_s >= self._interval_s:
            self._adjusted_s = now_s
            self._adjust(signals)
        if overcommit and self.limit == self.capacity and not signals.others:
            return max(0, self.capacity + self.headroom - signals.bulk)
        free = self.capacity - signals.bulk - max(signals.others, self.reserved)
        return max(0, min(self.limit - signals.bulk, free))

    def _adjust(self, signals: Signals) -> None:
        self.reason = self._congestion(signals)
        if self._on_adjust is not None:
            self._on_adjust(self.reason)
        if self.reason is LimitReason.OPEN:
            self.limit = min(self.ceiling, self.limit + self.headroom)
        else:
            self.limit = max(1, min(self.limit, signals.bulk) // 2)

    def _congestion(self, signals: Signals) -> LimitReason:
        preempted = (signals.preemptions or 0) > self._preemptions
        self._preemptions = max(self._preemptions, signals.preemptions or 0)
        self._waited = self._waited + 1 if signals.others and signals.waiting else 0
        if preempted:
            return LimitReason.PREEMPTED
        if signals.kv_cache_usage is not None and signals.kv_cache_usage >= KV_FULL:
            return LimitReason.KV_CACHE
        if self._waited >= PATIENCE:
            return LimitReason.WAITING
        return LimitReason.OPEN
