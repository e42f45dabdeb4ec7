"""Decides which traces are recorded: a share of them, and at most a fixed number a second, to bound their cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class Gate:
    """Decides whether a new trace is recorded.

    Args:
        ratio: the share, 0.0 to 1.0.
        max_per_s: most traces a second; 0.0: no limit. A second's worth may come at once.
        chance: returns a random number from 0.0 to 1.0.
    """

    def __init__(
        self,
        ratio: float,
        max_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] | None = None,
    ) -> None:
        self._ratio = ratio
        self._rate = max_per_s
        self._clock = clock
        self._chance = chance or random.random
        self._room = max(max_per_s, 1.0)
        self._at = clock()

    def __call__(self) -> bool:
        """Decide about one trace."""
        if self._ratio < 1.0 and self._chance() >= self._ratio:
            return False
        if not self._rate:
            return True
        now = self._clock()
        self._room = min(self._room + (now - self._at) * self._rate, max(self._rate, 1.0))
        self._at = now
        if self._room < 1.0:
            return False
        self._room -= 1.0
        return True
