"""What is to be done about children that have ended, beside starting them again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

_LAST_CALLS_S = 2.0


class Endings:
    """Runs such work in the background; what fails is reported."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Begin the work for the child ``name``."""
        task = asyncio.create_task(work, name=f"ending of {name}")
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                self._report(f"{name} has ended; what was to be done about that failed: {error}")

        task.add_done_callback(done)

    async def finish(self) -> None:
        """Wait until all of it is done, for two seconds at most; then give up the rest."""
        if not self._tasks:
            return
        _, pending = await asyncio.wait(set(self._tasks), timeout=_LAST_CALLS_S)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)  # an error was reported where it happened
