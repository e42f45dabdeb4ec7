"""The watch over the engine: whether it is alive, and whether it takes steps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from workers.engines.base import Engine, EngineDeadError

log = structlog.get_logger(__name__)


class EngineWatch:
    """Looks at the engine regularly, beside the heartbeat: an engine that answers late must not cost the lease.

    Args:
        engine: started.
        stall_s: an engine that has requests and takes no step for so long is dead, although its processes live; 0: never.
        on_death: called once, with the reason.
        clock: seconds, forward only.
    """

    def __init__(
        self,
        engine: Engine,
        stall_s: float,
        on_death: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._stall_s, self._on_death, self._clock = engine, stall_s, on_death, clock
        self._progress: float | None = None
        self._still_s = 0.0
        self._looked_s = clock()

    async def run(self, interval_s: float) -> None:
        """Look every ``interval_s`` seconds, until the engine is dead."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self._engine.check()
                self.look(2 * interval_s)
            except EngineDeadError as error:
                self._on_death(str(error))
                log.exception("engine_died")
                return

    def look(self, at_most_s: float) -> None:
        """See whether the engine has taken a step since the last look.

        Args:
            at_most_s: the most that the time since then counts. If this process stood still, so did its view of the engine.

        Raises:
            EngineDeadError: it has taken none for too long.
        """
        now_s, progress = self._clock(), self._engine.progress()
        self._still_s += min(now_s - self._looked_s, at_most_s)
        self._looked_s = now_s
        if progress is None or progress != self._progress:
            self._progress, self._still_s = progress, 0.0
        elif self._stall_s and self._still_s >= self._stall_s:
            raise EngineDeadError(
                f"it has requests and took no step for {self._still_s:.0f} s (engine_stall_s)"
            )
