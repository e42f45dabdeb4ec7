"""Bounds on time that hold on an idle machine, stretched by how busy it is at the moment."""

from __future__ import annotations

import time
from pathlib import Path

_LEAST_NS = 1_000_000
"""A thread that ran for less has shown nothing."""


class Pace:
    """Measures from its construction on. A busy machine lets a thread wait for a CPU; an idle one does not."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._ran_ns, self._waited_ns = _scheduled()

    @property
    def took_s(self) -> float:
        """The seconds since its construction."""
        return time.monotonic() - self._began

    def stretch(self, seconds: float) -> float:
        """Return how long what takes ``seconds`` on an idle machine may have taken: by as much as this thread waited."""
        ran_ns, waited_ns = _scheduled()
        ran_ns, waited_ns = ran_ns - self._ran_ns, waited_ns - self._waited_ns
        return seconds * (1 + waited_ns / max(ran_ns, _LEAST_NS))

    def allows(self, seconds: float) -> bool:
        """Whether no more time has passed than what takes ``seconds`` on an idle machine may have taken."""
        return self.took_s < self.stretch(seconds)

    def __repr__(self) -> str:
        return f"{self.took_s:.2f} s, stretched by {self.stretch(1):.2f}"


def _scheduled() -> tuple[int, int]:
    """Return how long this thread has run, and has waited for a CPU (Linux: sched-stats.rst)."""
    try:
        ran_ns, waited_ns, _ = Path("/proc/thread-self/schedstat").read_text().split()
    except OSError:  # another system does not tell
        return 0, 0
    return int(ran_ns), int(waited_ns)
