"""The lane controller: how many bulk jobs a worker may have now. A pure decision over counts and the engine's own signals.

Strict order ends at the claim: if bulk jobs fill a worker's slots, an interactive job waits until one of them ends. So a
share of the slots is never given to bulk. The rest follows AIMD (additive increase, multiplicative decrease; D.-M. Chiu and
R. Jain, 1989) on the engine's want of memory: a full KV cache, and preemptions.

Requests that wait inside the engine are no sign of congestion. A worker gives an engine no more than it has slots for, so a
request waits for the step under way, for prompts before it, or for memory, and memory has signals of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

KV_FULL = 0.95
"""KV-cache use from which on bulk is held back."""


class LimitReason(StrEnum):
    """Why the limit is as it is."""

    OPEN = "open"
    KV_CACHE = "kv_cache"
    PREEMPTED = "preempted"


@dataclass(frozen=True, slots=True)
class Signals:
    """The input of a decision.

    Attributes:
        bulk: bulk jobs on this worker.
        others: its other jobs.
        kv_cache_usage: 0.0 to 1.0; None: the engine does not say.
        preemptions: for want of KV cache, since the start; None: the engine does not say.
    """

    bulk: int
    others: int
    kv_cache_usage: float | None = None
    preemptions: int | None = None


class LaneController:
    """Says how many more bulk jobs one worker may take.

    Args:
        capacity: jobs that it runs at once.
        reserve: share of the capacity that bulk never gets, from 0.0 to 1.0 (exclusive). At least one slot is bulk's.
        holds_bulk: the engine itself runs no more than ``ceiling`` bulk jobs, and makes way for others.
        interval_s: seconds between adjustments; signals do not change faster than the engine's steps.
        on_adjust: called with the reason of each adjustment.

    Attributes:
        reserved: slots that bulk never gets.
        ceiling: the most slots that bulk ever gets.
        headroom: slots kept free beyond the interactive jobs, once those fill what is reserved for them.
        ahead: bulk jobs beyond the ceiling that wait inside the engine, so that a slot is filled in the step after it came
            free; 0 if the engine does not hold bulk.
        limit: slots that bulk may have now.
    """

    def __init__(
        self,
        capacity: int,
        reserve: float,
        *,
        holds_bulk: bool = False,
        interval_s: float = 0.1,
        on_adjust: Callable[[LimitReason], None] | None = None,
    ) -> None:
        self.capacity = capacity
        self.reserved = min(math.ceil(capacity * reserve), capacity - 1)
        self.ceiling = capacity - self.reserved
        self.headroom = max(1, capacity // 16)
        self.ahead = max(2, capacity // 8) if holds_bulk else 0
        self._interval_s = interval_s
        self._on_adjust = on_adjust
        self._adjusted_s = float("-inf")
        self._preemptions = 0
        self.limit = self.ceiling
        self.reason = LimitReason.OPEN

    def slots(self, others: int) -> int:
        """Return how many slots bulk may have beside ``others``."""
        return max(0, min(self.limit, self.capacity - max(others, self.reserved)))

    def free(self, signals: Signals, now_s: float, *, overcommit: bool = False) -> int:
        """Return how many bulk jobs may be taken now; never negative.

        Args:
            signals: as of now.
            now_s: seconds of a monotonic clock.
            overcommit: for an engine that does not hold bulk: admit a few more than run at once, if bulk may have every slot
                and no other job is here. No step runs with an empty slot between the end of one and the start of the next.
        """
        if now_s - self._adjusted_s >= self._interval_s:
            self._adjusted_s = now_s
            self._adjust(signals)
        most = self.slots(signals.others) + self._ahead()
        if overcommit and self.limit == self.capacity and not signals.others:
            most = max(most, self.capacity + self.headroom)
        return max(0, most - signals.bulk)

    def _ahead(self) -> int:
        return self.ahead if self.limit == self.ceiling else 0

    def _adjust(self, signals: Signals) -> None:
        self.reason = self._congestion(signals)
        if self._on_adjust is not None:
            self._on_adjust(self.reason)
        if self.reason is LimitReason.OPEN:
            self.limit = min(self.ceiling, self.limit + self.headroom)
        elif signals.bulk <= self.limit + self._ahead():  # otherwise the last cut has not taken effect yet
            self.limit = max(1, min(self.limit, signals.bulk) // 2)

    def _congestion(self, signals: Signals) -> LimitReason:
        preempted = (signals.preemptions or 0) > self._preemptions
        self._preemptions = max(self._preemptions, signals.preemptions or 0)
        if preempted:
            return LimitReason.PREEMPTED
        if signals.kv_cache_usage is not None and signals.kv_cache_usage >= KV_FULL:
            return LimitReason.KV_CACHE
        return LimitReason.OPEN
