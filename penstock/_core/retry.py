"""When to try again and after how long: pure, the randomness is an argument."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from penstock.errors import APIConnectionError, APIStatusError, PenstockError

RETRY_STATUSES = frozenset({408, 429, 502, 503, 504})
"""Statuses that say "not now". A 500 is a fault that the same request would meet again."""

MAX_RETRY_AFTER_S = 120.0
"""A server that asks for a longer pause gets no automatic retry: the caller should know at once."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounded exponential backoff with jitter.

    Attributes:
        max_retries: further tries after the first.
        base_s: the first pause; it doubles each time.
        cap_s: the longest pause of our own making; a server's Retry-After may ask for more.
        rand: random numbers in [0, 1), so that many clients do not come back at the same moment.
    """

    max_retries: int = 4
    base_s: float = 0.5
    cap_s: float = 8.0
    rand: Callable[[], float] = random.random

    def delay_s(self, error: PenstockError, tried: int) -> float | None:
        """Return the pause before the next try, or None where there shall be none.

        Args:
            error: why the last try failed.
            tried: retries made so far, from 0.
        """
        if tried >= self.max_retries or not is_transient(error):
            return None
        asked = error.retry_after if isinstance(error, APIStatusError) else None
        if asked is None:
            return self.backoff_s(tried)
        # Never before the time asked for; the jitter comes on top.
        return None if asked > MAX_RETRY_AFTER_S else asked + 0.1 * max(asked, self.base_s) * self.rand()

    def backoff_s(self, tried: int) -> float:
        """Return the pause after ``tried`` earlier ones: between half of and the whole exponential step."""
        step = min(self.cap_s, self.base_s * 2.0 ** min(tried, 32))
        return step * (0.5 + 0.5 * self.rand())


def is_transient(error: PenstockError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, APIStatusError):
        return error.status in RETRY_STATUSES
    return isinstance(error, APIConnectionError)
