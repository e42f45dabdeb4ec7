"""CPU time of processes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import psutil

_NAMES = (
    ("bulk_front_process", "bulk front"),
    ("VLLM", "engine"),
    ("spawn_main", "engine"),
    ("resource_tracker", "engine"),
    ("vllm.entrypoints", "server"),
    ("penstock api", "api"),
    ("penstock coordinator", "coordinator"),
    ("penstock flower", "flower"),
    ("valkey-server", "valkey"),
    ("celeryd", "worker"),
    ("penstock worker", "worker"),
    ("penstock up", "up"),
)


def kind(process: psutil.Process) -> str:
    """Name a process of a stack; ``server`` is vLLM's own."""
    line = " ".join(process.cmdline()) or process.name()
    return next((name for mark, name in _NAMES if mark in line), "other")


def used_s(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds that processes have used together; one that has ended counts nothing."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def used_by_kind_s(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """Return the same for each kind of process."""
    found: dict[str, float] = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            name = kind(process)
            found[name] = found.get(name, 0.0) + used_s([process])
    return found
