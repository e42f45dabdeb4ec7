"""The lane controller: how many bulk jobs may be in flight now. A pure decision over counts and the engine's own signals.

Strict order ends at the pop: a worker whose slots are full of bulk jobs makes an interactive one wait for the end of one
of them. So a share of the slots is never given to bulk, and how many of the rest it gets follows AIMD (additive increase,
multiplicative decrease; D.-M. Chiu and R. Jain, 1989) on the signs of congestion that hurt interactive users: requests
that wait inside the engine, a full KV cache, preemptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

KV_FULL = 0.95
"""KV-cache use from which on bulk is held back."""

PATIENCE = 3
"""Looks in a row at which requests must wait in the engine. What has just come waits for the step that is under way, which
is no congestion."""


class Reason(StrEnum):
    """Why the limit is what it is."""

    OPEN = "open"
    WAITING = "waiting"
    KV_CACHE = "kv_cache"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True)
class Signals:
    """What the controller looks at.

    Attributes:
        bulk: bulk jobs on this worker.
        others: its other jobs.
        waiting: requests that the engine holds and has not scheduled; None where it does not say.
        kv_cache_usage: 0.0 to 1.0; None where it does not say.
        preemptions: so far, a counter; None where it does not say.
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
        on_adjust: told the reason of each adjustment.
    """

    def __init__(
        self,
        capacity: int,
        reserve: float,
        interval_s: float = 0.1,
        on_adjust: Callable[[Reason], None] | None = None,
    ) -> None:
        self.capacity = capacity
        self._kept = min(math.ceil(capacity * reserve), capacity - 1)
        self._interval_s = interval_s
        self._on_adjust = on_adjust
        self._adjusted_s = float("-inf")
        self._preemptions = 0
        self._waited = 0
        self.limit = self.ceiling
        self.reason = Reason.OPEN

    @property
    def ceiling(self) -> int:
        """The most that bulk ever gets."""
        return self.capacity - self._kept

    @property
    def kept(self) -> int:
        """Slots that bulk never gets."""
        return self._kept

    @property
    def margin(self) -> int:
        """Slots that are left free beyond the interactive jobs there are, once those fill what is kept for them."""
        return max(1, self.capacity // 16)

    def room(self, signals: Signals, now_s: float, *, ahead: bool = False) -> int:
        """Return how many bulk jobs may be taken now; never negative.

        Args:
            signals: as of now.
            now_s: a monotonic clock's seconds.
            ahead: a few more than run at once, where bulk may have every slot and nobody else is here: they wait inside
                the engine, which then makes no step with a slot empty between one that ends and the next.
        """
        if now_s - self._adjusted_s >= self._interval_s:
            self._adjusted_s = now_s
            self._adjust(signals)
        if ahead and self.limit == self.capacity and not signals.others:
            return max(0, self.capacity + self.margin - signals.bulk)
        free = self.capacity - signals.bulk - max(signals.others, self._kept)
        return max(0, min(self.limit - signals.bulk, free))

    def _adjust(self, signals: Signals) -> None:
        self.reason = self._congestion(signals)
        if self._on_adjust is not None:
            self._on_adjust(self.reason)
        if self.reason is Reason.OPEN:
            self.limit = min(self.ceiling, self.limit + max(1, self.capacity // 16))
        else:
            self.limit = max(1, min(self.limit, signals.bulk) // 2)

    def _congestion(self, signals: Signals) -> Reason:
        preempted = (signals.preemptions or 0) > self._preemptions
        self._preemptions = max(self._preemptions, signals.preemptions or 0)
        self._waited = self._waited + 1 if signals.others and signals.waiting else 0
        if preempted:
            return Reason.PREEMPTED
        if signals.kv_cache_usage is not None and signals.kv_cache_usage >= KV_FULL:
            return Reason.KV_CACHE
        if self._waited >= PATIENCE:
            return Reason.WAITING
        return Reason.OPEN
