"""CPU time of processes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil


def used_s(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds that processes have used together; one that has ended counts nothing."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
