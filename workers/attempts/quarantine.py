"""Jobs under which an engine died once, one at a time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jobs.lanes import Lane
from workers.admission.gate import Gate


class Quarantine:
    """Keeps suspects apart, so that the engine's next death tells the cause from the jobs beside it.

    An engine that dies takes its whole batch with it, and any job of the batch may have been the cause. Each of them runs as
    the only suspect: until it ends, or for ``window_s`` seconds, since a request that kills an engine does so early.

    Args:
        gate: counts the slots; a suspect that waits takes none.
    """

    def __init__(self, gate: Gate, window_s: float) -> None:
        self._gate, self._window_s = gate, window_s
        self._taken = False
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()

    @asynccontextmanager
    async def alone(self, lane: Lane, *, bulk: bool) -> AsyncIterator[None]:
        """Wait for other suspects, without a slot, and then hold back those that come. The higher lane's go first.

        Args:
            bulk: how the gate has counted its message.
        """
        if self._taken:
            with self._gate.park(bulk=bulk):
                await self._turn(lane.engine_priority)
        self._taken = held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._release()

        timer = None
        try:
            await self._gate.slot()
            timer = asyncio.get_running_loop().call_later(self._window_s, release)
            yield
        finally:
            if timer is not None:
                timer.cancel()
            release()

    async def _turn(self, priority: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # it came in the same moment
            raise

    def _release(self) -> None:
        """Give the turn to the next suspect, if there is one."""
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
