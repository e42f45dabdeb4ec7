"""What the scheduler with lanes tells of itself, asked now and then: evictions, and what a step costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

log = structlog.get_logger(__name__)

_EVERY_S = 2.0
_PARTS = ("base", "decode", "prompt_token")


class LaneReport:
    """Asks vLLM's engine core as long as it has requests.

    Attributes:
        evictions: bulk requests that made way for calls, since the start.
        step_s: seconds that a step takes by itself (``base``), and for each ``decode`` and ``prompt_token``; empty before
            enough steps were measured.
    """

    def __init__(self) -> None:
        self.evictions = 0
        self.step_s: Mapping[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, llm: Any, busy: Callable[[], int]) -> None:
        """Begin to ask.

        Args:
            llm: vLLM's engine client, whose scheduler has lanes.
            busy: whether the engine core has requests.
        """
        self._task = asyncio.get_running_loop().create_task(self._ask(llm, busy), name="lane-report")

    def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _ask(self, llm: Any, busy: Callable[[], int]) -> None:
        while not llm.errored:
            await asyncio.sleep(_EVERY_S)
            if not busy():
                continue
            try:
                found = await llm.engine_core.call_utility_async("lane_report")
            except Exception:  # an engine that dies is noticed elsewhere
                log.debug("lane_report_failed", exc_info=True)
                return
            self.evictions = int(found["evictions"])
            self.step_s = {part: found[part] for part in _PARTS if part in found}
