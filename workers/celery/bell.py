"""When Celery's loop is woken for outcomes: at once after a quiet moment, and under load once for all of a few milliseconds.

Each wake is a turn of Celery's loop, for which its thread takes the interpreter's lock from the engine's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Bell:
    """Rings for what happens on the engine's loop. All of it is called there.

    Args:
        ring: wakes Celery's loop.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._rung_s = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def ring(self, apart_s: float, delay_s: float = 0.0) -> None:
        """Ring soon; one ring serves all who asked before it.

        Args:
            apart_s: time since the last ring.
            delay_s: time from now on. The ring comes after both.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        due_s = max(now_s + delay_s, self._rung_s + apart_s)
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return
            self._timer.cancel()
            self._timer = None
        if due_s <= now_s:
            self._now()
        else:
            self._timer = loop.call_at(due_s, self._now)

    def _now(self) -> None:
        self._timer, self._rung_s = None, asyncio.get_running_loop().time()
        self._ring()
