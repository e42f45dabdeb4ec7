"""Changes to vLLM's engine core for which it has no hook. Imported in the engine's process only.

``tests/e2e/test_lane_scheduler.py`` holds the contract for the pinned version.
"""

from __future__ import annotations

import queue
import time
from typing import Any

from vllm.v1.engine.core import EngineCore, EngineCoreProc

_MARK = "penstock_lanes"


def install() -> None:
    """Change the engine core's classes, once:

    - arrivals are taken in until the scheduler wants the next step made up (``next_step_at``);
    - the front can call ``lane_report``, which returns the scheduler's ``report()``.
    """
    if hasattr(EngineCoreProc, _MARK):
        return
    setattr(EngineCoreProc, _MARK, True)
    original = EngineCoreProc._process_engine_step  # noqa: SLF001

    def step(self: Any) -> Any:
        if self.batch_queue:
            _take_in(self, self.scheduler.next_step_at())
        return original(self)

    EngineCoreProc._process_engine_step = step  # noqa: SLF001
    EngineCore.lane_report = _report


def _report(core: Any) -> dict[str, float]:
    report: dict[str, float] = core.scheduler.report()
    return report


def _take_in(core: Any, until: float) -> None:
    """Handle what the front sends until a time of the monotonic clock. Aborts are handled as they come, too."""
    while (left := until - time.monotonic()) > 0:
        try:
            request = core.input_queue.get(timeout=left)
        except queue.Empty:
            return
        core._handle_client_request(*request)  # noqa: SLF001
