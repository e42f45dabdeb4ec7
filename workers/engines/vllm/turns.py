"""Bulk's work on the front's event loop, in turns: one piece in a turn of the loop, none while a call is on its way.

A call takes some ten turns of the loop from its claim to the engine core, and waits in each for all that is due. To answer a
bulk request takes a millisecond or two, and those that end in one step of the engine are all due in one turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

HOLD_S = 0.005
"""How long a piece of bulk's work waits for calls that are on their way."""


class Turns:
    """For one event loop, on which all of it is called.

    Attributes:
        calls: on their way.
    """

    def __init__(self) -> None:
        self.calls = 0
        self._work: deque[tuple[float, Callable[[], object]]] = (
            deque()
        )  # with the time until which it waits for calls
        self._next: asyncio.Handle | None = None  # None: no work has had this turn
        self._holds = False  # for a call: the next turn is that in which it ends

    def call_comes(self) -> None:
        """A call sets out; :meth:`call_is_gone` follows."""
        self.calls += 1

    def call_is_gone(self) -> None:
        """It has reached the engine core, or ended."""
        self.calls -= 1
        if not self.calls and self._holds and self._next is not None:
            self._next.cancel()
            self._next, self._holds = asyncio.get_running_loop().call_soon(self._turn), False

    def after(self, work: Callable[[], object]) -> None:
        """Call ``work`` in a turn of its own: now, if this one is free and no call is on its way. The order is kept."""
        loop = asyncio.get_running_loop()
        if self._next is None and not self.calls:
            self._next = loop.call_soon(self._turn)
            work()
            return
        self._work.append((loop.time() + HOLD_S, work))
        if self._next is None:
            self._next = loop.call_soon(self._turn)

    async def wait(self) -> None:
        """Wait for a turn."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def go() -> None:
            if not mine.done():  # nobody waits any more
                mine.set_result(None)

        self.after(go)
        await mine

    def _turn(self) -> None:
        self._next, self._holds = None, False
        if not self._work:
            return
        loop, until = asyncio.get_running_loop(), self._work[0][0]
        if self.calls and loop.time() < until:
            self._next, self._holds = loop.call_at(until, self._turn), True
            return
        _, work = self._work.popleft()
        self._next = loop.call_soon(self._turn)
        work()
