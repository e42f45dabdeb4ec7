"""Rows of batches wait here until the lane controller has room for them on the engine: the higher lane's first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

_LOOK_S = 0.05


class RowGate:
    """Lets rows onto the engine. Lives on one event loop.

    Args:
        room: says how many more rows may start now, given how many run.
    """

    def __init__(self, room: Callable[[int], int]) -> None:
        self._room = room
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._next: asyncio.Handle | None = None
        self.running = 0

    async def enter(self, priority: int = 0) -> None:
        """Wait for a place; :meth:`leave` gives it back.

        Args:
            priority: smaller goes first, as for the engine; among equals, who came first.
        """
        if not self._waiting and self._room(self.running) > 0:
            self.running += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), place))
        self._arm()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave()  # it was given in the same moment
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.running -= 1
        if self._next is None:
            self._let_in()

    def _let_in(self) -> None:
        """Give the free places, but before one goes to a lower lane, let those who got theirs come for their next rows.

        A chunk asks for one row at a time, so what waits here is not all that a lane has.
        """
        self._next, given = None, None
        while self._waiting:
            priority, _, place = self._waiting[0]
            if not place.done():
                if given is not None and priority > given:
                    self._next = asyncio.get_running_loop().call_soon(self._let_in)
                    break
                if self._room(self.running) <= 0:
                    break
                place.set_result(None)
                self.running += 1
                given = priority
            heapq.heappop(self._waiting)
        self._arm()

    def _arm(self) -> None:
        """Look again soon: room comes back without a row's end when interactive jobs end."""
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._next is None:
            self._let_in()
        else:
            self._arm()
