"""The places of the simulated engine's batch."""

from __future__ import annotations

import asyncio
import heapq
import itertools


class Places:
    """Places for a number of requests at once. The others wait.

    Attributes:
        taken: how many are taken.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._waiters)

    async def acquire(self, priority: int) -> None:
        """Take a place, the smallest priority first, then first come first served."""
        if self.taken < self._capacity:
            self.taken += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (priority, next(self._order), place)
        heapq.heappush(self._waiters, entry)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()  # the place was given in the same moment
            else:
                self._waiters.remove(entry)
                heapq.heapify(self._waiters)
            raise

    def release(self) -> None:
        """Give the place to the next, or free it."""
        while self._waiters:
            place = heapq.heappop(self._waiters)[2]
            if not place.done():
                place.set_result(None)
                return
        self.taken -= 1
