"""Jobs under which an engine died once, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Quarantine:
    """Keeps suspects apart, so that the engine's next death tells the cause from the jobs beside it.

    An engine that dies takes its whole batch with it, and any job of the batch may have been the cause. Each of them runs as
    the only suspect: until it ends, or for ``window_s`` seconds, since a request that kills an engine does so early.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait for earlier suspects, and hold back later ones."""
        await self._lock.acquire()
        held = True

        def release() -> None:
            nonlocal held
            if held:
                held = False
                self._lock.release()

        timer = asyncio.get_running_loop().call_later(self._window_s, release)
        try:
            yield
        finally:
            timer.cancel()
            release()
