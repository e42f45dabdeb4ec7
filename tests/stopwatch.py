"""Times measured against what the machine does at that moment."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_STEP_S = 0.05


class Stopwatch:
    """Measures how long a block takes, and how many tasks wanted each core meanwhile.

    A bound is written for a machine that does nothing else. On a busy one every task gets a part of a core, so
    :meth:`allows` compares with the bound times the tasks that there were for a core.
    """

    def __init__(self) -> None:
        self.took_s = 0.0
        self._shares: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="stopwatch", daemon=True)

    def _look(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        while True:
            self._shares.append(max(1.0, _runnable() / cores))
            if self._ended.wait(_STEP_S):
                return

    @property
    def share(self) -> float:
        """Tasks for a core, on average; at least 1."""
        return sum(self._shares) / len(self._shares)

    def allows(self, bound_s: float) -> bool:
        """Whether the block took less than it would in ``bound_s`` seconds of an idle machine."""
        return self.took_s < bound_s * self.share

    def __enter__(self) -> Self:
        self._thread.start()
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.took_s = time.monotonic() - self._began
        self._ended.set()
        self._thread.join()

    def __repr__(self) -> str:
        return f"{self.took_s:.2f} s with {self.share:.1f} tasks for a core"


def _runnable() -> float:
    """Tasks that run or want to: of this moment (Linux), or of the last minute."""
    try:
        return float(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except OSError:
        return os.getloadavg()[0]
