"""Changes to vLLM's engine core for which it has no hook. Imported in the engine's process only.

``tests/e2e/test_lane_scheduler.py`` holds the contract for the pinned version.
"""

from __future__ import annotations

import queue
import time
from typing import Any

from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.engine.core import EngineCore, EngineCoreProc
from vllm.v1.request import RequestStatus

_MARK = "penstock_lanes"


def install() -> None:
    """Change the engine core's classes, once:

    - arrivals are taken in until the scheduler wants the next step made up (``next_step_at``);
    - the front can call ``lane_report``, which returns the scheduler's ``report()``, and ``forget_client``.
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
    EngineCore.forget_client = _forget_client


def _report(core: Any) -> dict[str, float]:
    report: dict[str, float] = core.scheduler.report()
    return report


def _forget_client(core: Any, client: int) -> int:
    """Abort the requests of a client that is gone, now and those still on their way. Returns how many it had."""
    scheduler = core.scheduler
    theirs = [one.request_id for one in scheduler.requests.values() if one.client_index == client]
    scheduler.finish_requests(theirs, RequestStatus.FINISHED_ABORTED)
    add = scheduler.add_request

    def add_of_others(request: Any) -> None:
        if request.client_index != client:
            add(request)

    scheduler.add_request = add_of_others
    return len(theirs)


def stats_to_worker(outputs: dict[int, Any]) -> dict[int, Any]:
    """Have the statistics of a step go to the worker's own front, client 0. vLLM sends them to any client."""
    for client, one in outputs.items():
        if one.scheduler_stats is not None:
            if client:
                outputs.setdefault(0, EngineCoreOutputs()).scheduler_stats = one.scheduler_stats
                one.scheduler_stats = None
            break
    return outputs


def _take_in(core: Any, until: float) -> None:
    """Handle what the front sends until a time of the monotonic clock. Aborts are handled as they come, too."""
    while (left := until - time.monotonic()) > 0:
        try:
            request = core.input_queue.get(timeout=left)
        except queue.Empty:
            return
        core._handle_client_request(*request)  # noqa: SLF001
