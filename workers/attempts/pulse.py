"""The rates of a worker between two heartbeats, as `penstock top` shows them."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pulse:
    """Counts jobs, waits and tokens between two beats.

    Args:
        clock: seconds, forward only.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._generated: int | None = None
        self._jobs = 0
        self._tokens = 0
        self._waits = 0
        self._waited_ms = 0

    def claimed(self, waited_ms: int | None) -> None:
        """Count an attempt that begins. ``waited_ms``: how long its job was queued; None: not known."""
        if waited_ms is not None:
            self._waits += 1
            self._waited_ms += waited_ms

    def ended(self) -> None:
        """Count a job that ended here."""
        self._jobs += 1

    def answered(self, tokens: int) -> None:
        """Count the completion tokens of a run that has ended."""
        self._tokens += tokens

    def read(self, generated: int | None) -> dict[str, float | None]:
        """Return the rates since the last call, and start again from zero.

        Args:
            generated: tokens that the engine has generated since its start; None: it does not say. Then the tokens of runs
                that ended count instead, all at the end of their run.

        Returns:
            ``tokens_per_s``, ``jobs_per_s``, and ``wait_ms``, the mean wait of the attempts that began; None if none did.
        """
        now = self._clock()
        passed = max(now - self._since, 0.001)
        tokens = self._tokens if generated is None else max(generated - (self._generated or 0), 0)
        wait = self._waited_ms / self._waits if self._waits else None
        rates = {
            "tokens_per_s": round(tokens / passed, 1),
            "jobs_per_s": round(self._jobs / passed, 2),
            "wait_ms": None if wait is None else round(wait, 1),
        }
        self._since, self._generated = now, generated
        self._jobs = self._tokens = self._waits = self._waited_ms = 0
        return rates
