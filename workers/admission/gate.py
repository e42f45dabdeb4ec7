"""Admission to the engine: one gate for bulk jobs of the queue and for rows of batches.

Jobs wait in Redis: the gate counts those that were claimed, and says how many more may be. Rows wait here, in one queue, the
higher lane's first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from broker.claims import Claim
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from workers.admission.pace import Pace
from workers.admission.policy import LaneController, Signals
from workers.engines.base import Engine

_RECHECK_S = 0.05
_NO_ROOM_S = 0.02
_NO_ROOM_LONG_S = 0.1
_LEAST_RECHECK_S = 0.005


class ChunkSlots:
    """One chunk's places on the engine, a place for each running row. See :meth:`Gate.open_chunk`.

    Attributes:
        left: rows that are not on the engine yet, and not finished either.
        stalled: the chunk waits for storage, so its rows do not ask for places.
    """

    def __init__(self, gate: Gate, lane: Lane, rows: int) -> None:
        self._gate, self.lane = gate, lane
        self.left, self.stalled = rows, False

    @property
    def waits(self) -> bool:
        """Whether rows of it wait for the engine."""
        return self.left > 0 and not self.stalled

    def skip(self, rows: int) -> None:
        """Leave out rows that an earlier attempt has finished."""
        self.left -= rows

    async def acquire(self, rows: int = 1) -> None:
        """Wait for a place for the next run, which answers ``rows`` rows; :meth:`release` gives it back."""
        await self._gate.acquire(self.lane)
        self.left -= rows

    def release(self, unfinished: int = 0) -> None:
        """Give a place back. ``unfinished`` rows of its run are left for another one."""
        self._gate.release(self.lane)
        self.left += unfinished


class Gate:
    """Counts the work of this worker, and admits bulk work as the lane controller and the pace allow.

    Jobs are counted on the consumer's thread; chunks and rows on the engine's loop. Each number has one writer, and a set
    changes in one step, so both threads may read all of them without a lock. Decisions have a lock: they change their state.

    Args:
        engine: started; its own signals count.
        lanes, pace: decide for this gate alone.

    Attributes:
        closed: nothing more is admitted, neither jobs nor rows. From any thread.
        running_rows: rows that have a place.
    """

    def __init__(self, engine: Engine, lanes: LaneController, pace: Pace) -> None:
        self._engine, self._lanes, self._pace = engine, lanes, pace
        self._deciding = threading.Lock()
        self._paced_s: float | None = (
            None  # until the pace lets the next bulk job in; None: it is not what stops it
        )
        self._bulk = self._others = self._chunk_jobs = 0  # jobs that were claimed and not settled
        self._coming: set[str] = set()  # of these, chunks that are not open yet
        self._chunks: set[ChunkSlots] = set()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._row_wait_s = _RECHECK_S
        self._next: asyncio.Handle | None = None
        self.closed = False
        self.running_rows = 0
        self._promoted = 0  # of these, rows of lanes above bulk

    # ---- jobs, on the consumer's thread ------------------------------------------------------------------------

    @property
    def jobs(self) -> int:
        """Jobs that were claimed and not settled."""
        return self._bulk + self._others + self._chunk_jobs

    def take(self, claim: Claim) -> None:
        """Count a job that is claimed."""
        if claim.endpoint == CHUNK_ENDPOINT:
            self._coming.add(claim.id)
        elif claim.lane is Lane.BULK:
            self._enter()
        self._count(claim, 1)

    def settle(self, claim: Claim) -> None:
        """Count a job that has ended here."""
        self._coming.discard(claim.id)
        if claim.lane is Lane.BULK and claim.endpoint != CHUNK_ENDPOINT:
            self._leave()
        self._count(claim, -1)

    def _count(self, claim: Claim, by: int) -> None:
        if claim.endpoint == CHUNK_ENDPOINT:
            self._chunk_jobs += by
        elif claim.lane is Lane.BULK:
            self._bulk += by
        else:
            self._others += by

    def free(self) -> int:
        """Return how many more jobs may be claimed.

        Chunks take none of it, whatever their lane, since their rows make way for calls. Nor do other bulk jobs where the
        engine holds bulk.
        """
        if self.closed:
            return 0
        return self._lanes.capacity - self._others - (0 if self._lanes.ahead else self._bulk)

    def chunk_lanes(self) -> int:
        """Return of how many lanes, from the highest, a chunk may be claimed: those above all of whose rows some wait here.

        None while a chunk is about to be opened: how many rows of it are left is not known yet. Chunks of bulk need
        :meth:`free_bulk`, too.
        """
        if self._coming or self.closed:
            return 0
        return min((slots.lane.place for slots in list(self._chunks) if slots.waits), default=len(Lane))

    def free_bulk(self) -> int:
        """Return how many more bulk jobs may be claimed: none while rows of chunks are here, or about to be, and wait."""
        self._paced_s = None
        if self._coming or self.closed:
            return 0
        left = self.rows_left()
        with self._deciding:
            free = max(0, self._room(self.running_rows) - left)
            room = self._pace.room(free, time.monotonic())
            if room < 1 <= free:
                self._paced_s = self._pace.wait_s()
        return room

    def recheck_s(self) -> float:
        """Return after how many seconds to ask again when :meth:`free_bulk` was 0.

        Rows that wait for more than every slot once over keep the engine busy for longer than the short pause.
        """
        if self._paced_s is not None:
            return min(_NO_ROOM_S, max(_LEAST_RECHECK_S, self._paced_s))
        return _NO_ROOM_LONG_S if self.rows_left() > self._lanes.capacity else _NO_ROOM_S

    # ---- the whole gate, on the engine's loop ------------------------------------------------------------------

    def close(self) -> None:
        """Admit nothing more; what was admitted goes on."""
        self.closed = True

    def open(self) -> None:
        """Admit again."""
        self.closed = False
        self._admit()

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

    def chunks(self) -> int:
        """Return how many chunks are here. From any thread."""
        return len(self._chunks)

    def rows_left(self) -> int:
        """Return how many rows of the chunks here wait for the engine; those of stalled chunks do not. From any thread."""
        return sum(slots.left for slots in list(self._chunks) if slots.waits)

    async def acquire(self, lane: Lane = Lane.BULK) -> None:
        """Wait for a row's place on the engine; :meth:`release` gives it back.

        Args:
            lane: the higher goes first; among equals, the first to come.
        """
        if not self._waiting and self._free_rows(lane.engine_priority) > 0:
            self._take_place(lane.engine_priority)
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (lane.engine_priority, next(self._arrivals), place))
        self._arm()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release(lane)  # it was given in the same moment
            raise

    def release(self, lane: Lane = Lane.BULK) -> None:
        """Give a row's place back."""
        self.running_rows -= 1
        self._promoted -= lane is not Lane.BULK
        self._leave()
        if self._next is None:
            self._admit()

    def _take_place(self, priority: int) -> None:
        self.running_rows += 1
        self._promoted += priority < Lane.BULK.engine_priority
        self._enter()

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
                if self._free_rows(priority) <= 0:
                    break
                place.set_result(None)
                self._take_place(priority)
                given = priority
            heapq.heappop(self._waiting)
        self._arm()

    def _arm(self) -> None:
        """Check again soon: interactive jobs that end make room without a row's end, and so does the pace."""
        if self._waiting and self._timer is None:
            wait_s = min(_RECHECK_S, self._row_wait_s)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._recheck)

    def _recheck(self) -> None:
        self._timer = None
        if self._next is None:
            self._admit()
        else:
            self._arm()

    # ---- decisions ------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        with self._deciding:
            self._pace.enter(time.monotonic())

    def _leave(self) -> None:
        with self._deciding:
            self._pace.leave(time.monotonic())

    def _free_rows(self, priority: int) -> int:
        """Return how many rows may go onto the engine now, if the first of them has this priority.

        The engine makes bulk alone wait. So rows of higher lanes do not count on the places of those that wait inside it.
        A server that is not this worker's own never gets more than its capacity: it may refuse, or bill, what is beyond.
        """
        if self.closed:
            return 0
        overcommit = self._engine.in_process and self._lanes.capacity >= self._engine.capacity()
        with self._deciding:
            free = self._room(self.running_rows, overcommit=overcommit)
            if self._lanes.ahead and priority < Lane.BULK.engine_priority:
                free = min(free, self._lanes.slots(self._beside()) - self._promoted)
            room = self._pace.room(max(0, free), time.monotonic())
            self._row_wait_s = self._pace.wait_s() if room < 1 <= free else _RECHECK_S
        return room

    def _beside(self) -> int:
        """Return the jobs that bulk leaves slots for."""
        others = self._others
        if others and others >= self._lanes.reserved:
            others += self._lanes.headroom  # so that the next interactive job, too, finds a place
        return others

    def _room(self, rows: int, *, overcommit: bool = False) -> int:
        """Return how many more bulk jobs or rows the lane controller lets onto the engine beside ``rows``."""
        stats = self._engine.stats()
        signals = Signals(self._bulk + rows, self._beside(), stats.kv_cache_usage, stats.preemptions)
        return self._lanes.free(signals, time.monotonic(), overcommit=overcommit)
