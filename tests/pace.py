"""How slow the machine is at the moment: what bounds on time are stretched by."""

from __future__ import annotations

from pathlib import Path


_LEAST_NS = 1_000_000
"""A thread that ran for less has shown nothing."""


class Pace:
    """Measures from its construction on. A busy machine lets a thread wait for a CPU; an idle one does not."""

    def __init__(self) -> None:
        self._ran_ns, self._waited_ns = _scheduled()

    def stretch(self, seconds: float) -> float:
        """Return how long what takes ``seconds`` on an idle machine may have taken: by as much as this thread waited."""
        ran_ns, waited_ns = _scheduled()
        ran_ns, waited_ns = ran_ns - self._ran_ns, waited_ns - self._waited_ns
        return seconds * (1 + waited_ns / max(ran_ns, _LEAST_NS))


def _scheduled() -> tuple[int, int]:
    """Return how long the process's first thread has run, and has waited for a CPU (Linux: sched-stats.rst)."""
    ran_ns, waited_ns, _ = Path("/proc/self/schedstat").read_text().split()
    return int(ran_ns), int(waited_ns)
