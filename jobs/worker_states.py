"""The states of a worker, as its record says them. Only a ready one claims jobs."""

from __future__ import annotations

from enum import StrEnum


class WorkerState(StrEnum):
    """What a worker does now."""

    READY = "ready"
    DRAINING = "draining"
    """It finishes its jobs, takes no more, and ends."""
    ASLEEP = "asleep"
    """Its model is not on the device: another model of its swap group is."""
    WAKING = "waking"
    """It waits for the device, or loads its model."""

    @classmethod
    def read(cls, text: str | None) -> WorkerState:
        """Return the state that a record says. Workers of other versions may say none, or one more: they count as ready."""
        return next((state for state in cls if state == text), cls.READY)

    @property
    def comes_back(self) -> bool:
        """Whether it takes no jobs now and will later: its model counts as served."""
        return self in {WorkerState.ASLEEP, WorkerState.WAKING}
