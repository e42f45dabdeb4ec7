"""Jobs under which an engine died once, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Quarantine:
    """Keeps suspects apart, so that the next death of the engine tells the culprit from those that ran beside it.

    An engine that dies takes its whole batch with it, and any of those jobs may have been the cause. Each of them is let
    onto the engine alone among its kind: until it has ended, or for ``window_s`` seconds, in which a request that kills an
    engine has as a rule done so.

    Args:
        window_s: seconds.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait for the suspects before this one; hold back those behind it."""
        await self._lock.acquire()
        held = True

        def let_go() -> None:
            nonlocal held
            if held:
                held = False
                self._lock.release()

        timer = asyncio.get_running_loop().call_later(self._window_s, let_go)
        try:
            yield
        finally:
            timer.cancel()
            let_go()
