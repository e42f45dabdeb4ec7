"""The pace of bulk: a token bucket, so that bulk enters the engine one by one and not in waves. Pure.

Jobs of equal length that start together end together, and their successors start together: a wave of 190 prompts every few
seconds, each in the way of whoever calls just then. So bulk enters at the rate at which a full engine would end it: by
Little's law (J. D. C. Little, 1961), the places divided by the mean time on the engine. While slots are empty it enters
faster: an empty engine is full within :data:`FILL_S`.
"""

from __future__ import annotations

from collections import deque
from typing import Final

FILL_S: Final = 1.0
"""Seconds in which an empty engine fills, or less if its jobs are shorter."""

MORE: Final = 1.1
"""The pace, in rates of completion. The bucket must not be what bounds throughput."""

MOSTLY_IDLE: Final = 0.25
"""Share of empty slots beyond which they are filled as those of an empty engine."""

BURST: Final = 8
"""Jobs that may enter at once. Nobody feels so few, so engines with few slots are not paced."""

_BURST_S = 0.02
"""The bucket also holds what comes in this time: those who ask do so a little late."""

_LEAST_MEAN_S = 1e-4
_LEAST_WAIT_S = 0.002


class Pace:
    """The bucket. It is not safe for threads.

    Args:
        places: bulk jobs that the worker may hold at once.
        ahead: of these, jobs that wait inside the engine for a slot.

    Attributes:
        rate: jobs a second that may enter now.
    """

    def __init__(self, places: int, ahead: int = 0) -> None:
        self._places, self._ahead = places, ahead
        self._filled_s: float | None = None
        self._entered: deque[float] = deque()
        self._mean_s, self._samples = 0.0, 0
        self.rate = places / FILL_S
        self._tokens = self._most()

    def enter(self, now_s: float) -> None:
        """Count a job that enters."""
        self._entered.append(now_s)
        self._tokens -= 1.0

    def leave(self, now_s: float) -> None:
        """Count a job that has ended, or was taken off.

        Which one does not matter: with any order, the times from one's entry to another's end have the same mean.
        """
        took_s = now_s - self._entered.popleft()
        self._samples = min(self._samples + 1, self._places)
        self._mean_s += (took_s - self._mean_s) / self._samples

    def room(self, free: int, now_s: float) -> int:
        """Return how many of ``free`` places may be filled now."""
        self.rate = self._rate(free)
        since_s = 0.0 if self._filled_s is None else now_s - self._filled_s
        self._filled_s = now_s
        self._tokens = min(self._most(), self._tokens + since_s * self.rate)
        return max(0, min(free, int(self._tokens)))

    def wait_s(self) -> float:
        """Return in how many seconds the next may enter, once :meth:`room` has said that none may."""
        return max(_LEAST_WAIT_S, (1.0 - self._tokens) / self.rate)

    def _most(self) -> float:
        return max(float(BURST), self.rate * _BURST_S)

    def _rate(self, free: int) -> float:
        """Return jobs a second: for a while after a wave slots stay empty, so that the next wave is wider and lower."""
        idle = max(0, free - self._ahead) / (self._places - self._ahead)
        fill = self._places / FILL_S
        if not self._samples:
            return fill
        ends = (MORE + idle) * self._places / max(_LEAST_MEAN_S, self._mean_s)
        return max(ends, fill) if idle > MOSTLY_IDLE else ends
