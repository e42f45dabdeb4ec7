"""Admission to the engine: one gate for bulk messages of the queue and for rows of batches.

Messages wait in Redis: the gate counts those that were taken, and says how many more may be. Rows wait here, in one queue,
the higher lane's first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.lanes import Lane
from workers.admission.policy import LaneController, Signals
from workers.engines.base import Engine

_RECHECK_S = 0.05
_NO_ROOM_S = 0.02
_NO_ROOM_LONG_S = 0.1


class ChunkSlots:
    """One chunk's places on the engine, a place for each running row. See :meth:`Gate.open_chunk`.

    Attributes:
        bulk: its message is counted as bulk.
        left: rows that are not on the engine yet, and not finished either.
        stalled: the chunk waits for storage, so its rows do not ask for places.
    """

    def __init__(self, gate: Gate, lane: Lane, rows: int, *, bulk: bool) -> None:
        self._gate, self._lane = gate, lane
        self.bulk, self.left, self.stalled = bulk, rows, False

    def skip(self, rows: int) -> None:
        """Leave out rows that an earlier attempt has finished."""
        self.left -= rows

    async def acquire(self) -> None:
        """Wait for a place for the next row; :meth:`release` gives it back."""
        await self._gate.acquire(self._lane.engine_priority)
        self.left -= 1

    def release(self, *, finished: bool) -> None:
        """Give a place back. A row that is not ``finished`` is left for another attempt."""
        self._gate.release()
        if not finished:
            self.left += 1


class Gate:
    """Counts the work of this worker, and admits bulk work as the lane controller allows.

    Messages are counted on the consumer's thread; claims, chunks and rows on the engine's loop. Each number has one writer,
    so both threads may read all of them without a lock.

    Args:
        engine: started; its own signals count.

    Attributes:
        on_parked: called on the engine's loop when a job leaves its slot.
    """

    def __init__(self, engine: Engine, lanes: LaneController) -> None:
        self._engine, self._lanes = engine, lanes
        self._bulk = self._others = 0  # messages that were taken and not settled
        self._parked_bulk = self._parked_others = 0  # of these
        self._taken = self._claimed = 0  # since the start
        self._chunks: set[ChunkSlots] = set()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._next: asyncio.Handle | None = None
        self.running_rows = 0
        self.on_parked: Callable[[], None] = lambda: None

    # ---- messages, on the consumer's thread --------------------------------------------------------------------

    @property
    def messages(self) -> int:
        """Messages that were taken and not settled."""
        return self._bulk + self._others

    @property
    def parked(self) -> int:
        """Messages whose jobs take no slot now. From any thread."""
        return self._parked_bulk + self._parked_others

    def take_message(self, *, bulk: bool) -> None:
        """Count a message that was popped.

        Args:
            bulk: it comes from the queue of the lane bulk. Its job's lane may be another: jobs of every lane come from a
                worker's own queue, and a job may be moved to another lane. All that is told of it later goes by this.
        """
        self._taken += 1
        self._bulk += bulk
        self._others += not bulk

    def settle_message(self, *, bulk: bool) -> None:
        """Count a message whose job has ended here."""
        self._bulk -= bulk
        self._others -= not bulk

    def free_messages(self) -> int:
        """Return how many more bulk messages may be taken.

        One at a time while chunks of batches run here, since each message may bring many rows; none while rows of the chunks
        here wait for the engine.
        """
        free = self._free(self.running_rows) - self.rows_left()
        if not any(self.chunks()):
            return max(0, free)
        return 0 if self._taken > self._claimed else max(0, min(1, free))

    def recheck_s(self) -> float:
        """Return after how many seconds to ask again when :meth:`free_messages` is 0.

        Rows that wait for more than every slot once over keep the engine busy for longer than the short pause.
        """
        return _NO_ROOM_LONG_S if self.rows_left() > self._lanes.capacity else _NO_ROOM_S

    # ---- claims, chunks and rows, on the engine's loop ---------------------------------------------------------

    def count_claim(self) -> None:
        """Note that it is known of one more message whether it is a chunk."""
        self._claimed += 1

    @contextmanager
    def park(self, *, bulk: bool) -> Iterator[None]:
        """Take a job off its slot, for as long as it waits for something else than the engine; then see :meth:`slot`.

        Args:
            bulk: as its message was counted.
        """
        self._parked_bulk += bulk
        self._parked_others += not bulk
        self.on_parked()
        try:
            yield
        finally:
            self._parked_bulk -= bulk
            self._parked_others -= not bulk

    async def slot(self) -> None:
        """Wait until a job that was parked has a slot again. No other message gets the next free one."""
        while self.messages - self.parked > self._lanes.capacity:  # noqa: ASYNC110 - another thread settles them
            await asyncio.sleep(_RECHECK_S)

    @contextmanager
    def open_chunk(self, lane: Lane, rows: int, *, bulk: bool) -> Iterator[ChunkSlots]:
        """Count a chunk of ``rows`` rows, for as long as it is on this worker.

        Args:
            bulk: as its message was counted.
        """
        slots = ChunkSlots(self, lane, rows, bulk=bulk)
        self._chunks.add(slots)
        try:
            yield slots
        finally:
            self._chunks.remove(slots)

    def chunks(self) -> tuple[int, int]:
        """Return how many chunks are here: those whose messages count as bulk, and others. From any thread."""
        kinds = [slots.bulk for slots in list(self._chunks)]
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
        others = max(0, self._others - self._parked_others - other_chunks)
        if others and others >= self._lanes.reserved:
            others += self._lanes.headroom  # so that the next interactive job, too, finds a place
        stats = self._engine.stats()
        bulk = max(0, self._bulk - self._parked_bulk - bulk_chunks) + rows
        signals = Signals(bulk, others, stats.waiting, stats.kv_cache_usage, stats.preemptions)
        return self._lanes.free(signals, time.monotonic(), overcommit=overcommit)
