"""Admission to the engine: one gate for bulk jobs of the queue and for rows of batches.

Jobs wait in Redis: the gate counts those that were claimed, and says how many more may be. Rows wait here, in one queue, the
higher lane's first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from broker.attempts import Claim
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from workers.admission.policy import LaneController, Signals
from workers.engines.base import Engine

_RECHECK_S = 0.05
_NO_ROOM_S = 0.02
_NO_ROOM_LONG_S = 0.1


class ChunkSlots:
    """One chunk's places on the engine, a place for each running row. See :meth:`Gate.open_chunk`.

    Attributes:
        left: rows that are not on the engine yet, and not finished either.
        stalled: the chunk waits for storage, so its rows do not ask for places.
    """

    def __init__(self, gate: Gate, lane: Lane, rows: int) -> None:
        self._gate, self.lane = gate, lane
        self.left, self.stalled = rows, False

    def skip(self, rows: int) -> None:
        """Leave out rows that an earlier attempt has finished."""
        self.left -= rows

    async def acquire(self) -> None:
        """Wait for a place for the next row; :meth:`release` gives it back."""
        await self._gate.acquire(self.lane.engine_priority)
        self.left -= 1

    def release(self, *, finished: bool) -> None:
        """Give a place back. A row that is not ``finished`` is left for another attempt."""
        self._gate.release()
        if not finished:
            self.left += 1


class Gate:
    """Counts the work of this worker, and admits bulk work as the lane controller allows.

    Jobs are counted on the consumer's thread; chunks and rows on the engine's loop. Each number has one writer, and a set
    changes in one step, so both threads may read all of them without a lock.

    Args:
        engine: started; its own signals count.
    """

    def __init__(self, engine: Engine, lanes: LaneController) -> None:
        self._engine, self._lanes = engine, lanes
        self._bulk = self._others = 0  # jobs that were claimed and not settled
        self._coming: set[str] = set()  # of these, chunks that are not open yet
        self._chunks: set[ChunkSlots] = set()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._next: asyncio.Handle | None = None
        self.running_rows = 0

    # ---- jobs, on the consumer's thread ------------------------------------------------------------------------

    @property
    def jobs(self) -> int:
        """Jobs that were claimed and not settled."""
        return self._bulk + self._others

    def take(self, claim: Claim) -> None:
        """Count a job that is claimed."""
        if claim.endpoint == CHUNK_ENDPOINT:
            self._coming.add(claim.id)
        self._count(claim.lane, 1)

    def settle(self, claim: Claim) -> None:
        """Count a job that has ended here."""
        self._coming.discard(claim.id)
        self._count(claim.lane, -1)

    def _count(self, lane: Lane, by: int) -> None:
        if lane is Lane.BULK:
            self._bulk += by
        else:
            self._others += by

    def free_bulk(self) -> int:
        """Return how many more bulk jobs may be claimed: none while rows of chunks are here, or about to be, and wait."""
        if self._coming:
            return 0
        return max(0, self._free(self.running_rows) - self.rows_left())

    def recheck_s(self) -> float:
        """Return after how many seconds to ask again when :meth:`free_bulk` is 0.

        Rows that wait for more than every slot once over keep the engine busy for longer than the short pause.
        """
        return _NO_ROOM_LONG_S if self.rows_left() > self._lanes.capacity else _NO_ROOM_S

    # ---- chunks and rows, on the engine's loop -----------------------------------------------------------------

    @contextmanager
    def open_chunk(self, claim: Claim, rows: int) -> Iterator[ChunkSlots]:
        """Count a chunk of ``rows`` rows, for as long as it is on this worker."""
        slots = ChunkSlots(self, claim.lane, rows)
        self._chunks.add(slots)
        self._coming.discard(claim.id)
        try:
            yield slots
        finally:
            self._chunks.remove(slots)

    def chunks(self) -> tuple[int, int]:
        """Return how many chunks are here: those of the lane bulk, and others. From any thread."""
        kinds = [slots.lane is Lane.BULK for slots in list(self._chunks)]
        return kinds.count(True), kinds.count(False)

    def rows_left(self) -> int:
        """Return how many rows of the chunks here wait for the engine; those of stalled chunks do not. From any thread."""
        return sum(slots.left for slots in list(self._chunks) if not slots.stalled)

    async def acquire(self, priority: int = 0) -> None:
        """Wait for a row's place on the engine; :meth:`release` gives it back.

        Args:
            priority: smaller goes first, as for the engine; among equals, the first to come.
        """
        if not self._waiting and self._free_rows() > 0:
            self.running_rows += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), place))
        self._arm()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()  # it was given in the same moment
            raise

    def release(self) -> None:
        """Give a row's place back."""
        self.running_rows -= 1
        if self._next is None:
            self._admit()

    def _admit(self) -> None:
        """Give the free places. Before one goes to a lower lane, the rows just admitted may ask for their successors.

        A chunk asks for one row at a time, so the queue here never shows all that a lane has.
        """
        self._next, given = None, None
        while self._waiting:
            priority, _, place = self._waiting[0]
            if not place.done():
                if given is not None and priority > given:
                    self._next = asyncio.get_running_loop().call_soon(self._admit)
                    break
                if self._free_rows() <= 0:
                    break
                place.set_result(None)
                self.running_rows += 1
                given = priority
            heapq.heappop(self._waiting)
        self._arm()

    def _arm(self) -> None:
        """Check again soon: interactive jobs that end make room without a row's end."""
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_RECHECK_S, self._recheck)

    def _recheck(self) -> None:
        self._timer = None
        if self._next is None:
            self._admit()
        else:
            self._arm()

    # ---- the lane controller's signals ----------------------------------------------------------------------------

    def _free_rows(self) -> int:
        overcommit = self._lanes.capacity >= self._engine.capacity()
        return self._free(self.running_rows, overcommit=overcommit)

    def _free(self, rows: int, *, overcommit: bool = False) -> int:
        """Return how many more bulk jobs or rows may go onto the engine beside ``rows``."""
        bulk_chunks, other_chunks = self.chunks()
        others = max(0, self._others - other_chunks)
        if others and others >= self._lanes.reserved:
            others += self._lanes.headroom  # so that the next interactive job, too, finds a place
        stats = self._engine.stats()
        bulk = max(0, self._bulk - bulk_chunks) + rows
        signals = Signals(bulk, others, stats.waiting, stats.kv_cache_usage, stats.preemptions)
        return self._lanes.free(signals, time.monotonic(), overcommit=overcommit)
