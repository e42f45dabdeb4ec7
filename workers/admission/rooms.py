"""How much bulk work this worker may take now: messages off the queue, and rows of batches onto the engine."""

from __future__ import annotations

import time
from collections.abc import Callable

from workers.admission.gate import RowGate
from workers.admission.policy import LaneController, Signals
from workers.engines.base import Engine

_HELD_S = 0.02
_HELD_LONG_S = 0.1


class Rooms:
    """Counts rows and jobs for the lane controller.

    Args:
        engine: whose signals count.
        lanes: the controller.
    """

    def __init__(self, engine: Engine, lanes: LaneController) -> None:
        self._engine, self._lanes = engine, lanes
        self.gate = RowGate(lambda rows: self._room(rows, ahead=lanes.capacity >= engine.capacity()))
        self.pool: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.chunks: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.pending: Callable[[], int] = lambda: 0
        self.claimed: Callable[[], int] = lambda: 0

    def messages(self) -> int:
        """Return how many more bulk messages may be taken. Called from the consumer's thread.

        One at a time where chunks of batches are about, each of which brings many rows; none while the chunks here have
        rows that wait for the engine.
        """
        room = self._room(self.gate.running) - self.pending()
        if not any(self.chunks()):
            return max(0, room)
        unclaimed = sum(self.pool()) > self.claimed()
        return 0 if unclaimed else max(0, min(1, room))

    def held_s(self) -> float:
        """Return how long bulk may be left alone where there is no room for it now, in seconds. From the consumer's thread.

        Rows that wait here for more than every slot once over keep the engine busy for longer than that.
        """
        return _HELD_LONG_S if self.pending() > self._lanes.capacity else _HELD_S

    def _room(self, rows: int, *, ahead: bool = False) -> int:
        """Return how many more rows may go onto the engine beside ``rows``."""
        bulk_chunks, other_chunks = self.chunks()
        bulk, others = self.pool()
        others = max(0, others - other_chunks)
        if others and others >= self._lanes.kept:
            others += self._lanes.margin  # so that the next interactive job, too, finds a place
        stats = self._engine.stats()
        held = max(0, bulk - bulk_chunks) + rows
        signals = Signals(held, others, stats.waiting, stats.kv_cache_usage, stats.preemptions)
        return self._lanes.room(signals, time.monotonic(), ahead=ahead)
