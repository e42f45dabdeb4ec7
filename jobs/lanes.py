"""Lanes: the strict order in which a pool's jobs are dispatched to its workers."""

from __future__ import annotations

from enum import StrEnum


class Lane(StrEnum):
    """A pool's queues, in the order in which they are served. ``realtime`` is for callers that hold a connection open."""

    REALTIME = "realtime"
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
    BULK = "bulk"

    @property
    def place(self) -> int:
        """How many lanes are served before it."""
        return _PLACES[self]

    @property
    def engine_priority(self) -> int:
        """The number for the engine's own priority scheduler: smaller runs sooner (vLLM ``priority``)."""
        return 10 * self.place


_PLACES = {lane: place for place, lane in enumerate(Lane)}

SUBMITTABLE = (Lane.HIGH, Lane.NORMAL, Lane.LOW, Lane.BULK)
"""The lanes that a submitted job may ask for. The api puts synchronous calls into ``realtime``."""
