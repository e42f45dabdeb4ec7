"""When a job is retried after a failed attempt."""

from __future__ import annotations

from dataclasses import dataclass

MAX_KILLS = 2
"""A job fails with ``poisoned`` when this many engines died while they ran it: it counts as the cause."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with "equal jitter" (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).

    Attributes:
        base_s: the first delay in seconds, before jitter.
        max_s: the longest delay in seconds.
    """

    base_s: float = 1.0
    max_s: float = 60.0

    def delay_s(self, attempt: int, chance: float) -> float:
        """Return the seconds to wait after a failed attempt.

        Args:
            attempt: the number of the attempt that failed, from 1.
            chance: uniformly from 0.0 to 1.0; the delay is between half and all of ``base_s * 2 ** (attempt - 1)``.
        """
        full = min(self.max_s, self.base_s * 2.0 ** min(attempt - 1, 60))
        return full / 2 + full / 2 * chance
