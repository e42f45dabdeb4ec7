"""Choosing the scheduler with lanes for an engine that is about to start, or vLLM's own where it does not fit."""

from __future__ import annotations

import inspect
import math
from typing import Any

import structlog

from workers.engines.settings import VllmSettings

log = structlog.get_logger(__name__)

_FOLDER = "workers.engines.vllm.lane_scheduler"

_METHODS = {
    "schedule": ("self", "throttle_prefills"),
    "add_request": ("self", "request"),
    "update_from_output": ("self", "scheduler_output", "model_runner_output"),
    "get_grammar_bitmask": ("self", "scheduler_output"),
    "_preempt_request": ("self", "request", "timestamp", "drop_stale_output"),
    "_request_blocks_can_be_freed": ("self", "request"),
}
"""Methods of vLLM's scheduler that ours overrides or calls, with their parameters."""

_NAMES = (
    "max_num_scheduled_tokens",
    "max_num_active_reqs",
    "num_spec_tokens",
    "is_prefill_chunk",
    "block_size",
)
"""What its source must speak of."""


def use(config: Any, ours: dict[str, Any], settings: VllmSettings) -> bool:
    """Put the scheduler with lanes into vLLM's config, unless the settings or the user's flags name another.

    Args:
        ours: our part of vLLM's ``additional_config``.

    Returns:
        Whether it is used. If it does not fit this version of vLLM, one warning says why.
    """
    scheduler = config.scheduler_config
    if not settings.lane_scheduler or scheduler.scheduler_cls is not None:
        return False
    if (why := misfit(config)) is not None:
        log.warning("lane_scheduler_unavailable", reason=why)
        return False
    most = scheduler.max_num_seqs
    places = most - min(
        math.ceil(most * settings.bulk_reserve), most - 1
    )  # as in workers/admission/policy.py
    ours["lanes"] = {
        "places": places,
        "slo_s": None if settings.interactive_slo_ms is None else settings.interactive_slo_ms / 1000,
        "just_in_time": settings.just_in_time,
    }
    scheduler.scheduler_cls = (
        f"{_FOLDER}.{'LaneScheduler' if scheduler.async_scheduling else 'SyncLaneScheduler'}"
    )
    return True


def used(config: Any) -> bool:
    """Whether a vLLM config names the scheduler with lanes."""
    named = config.scheduler_config.scheduler_cls
    return isinstance(named, str) and named.startswith(_FOLDER)


def misfit(config: Any) -> str | None:
    """Return why the scheduler with lanes cannot be used with this vLLM and this config; None: it can."""
    if config.scheduler_config.policy != "priority":
        return "the scheduling policy is not `priority`"
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.request_queue import PriorityRequestQueue
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.core import EngineCoreProc

    for name, wanted in _METHODS.items():
        method = getattr(AsyncScheduler, name, None)
        if method is None or tuple(inspect.signature(method).parameters) != wanted:
            return f"vLLM's scheduler has no {name}({', '.join(wanted)})"
    source = inspect.getsource(Scheduler)
    missing = [name for name in _NAMES if name not in source]
    if missing or not hasattr(PriorityRequestQueue(), "_heap"):
        return f"vLLM's scheduler has no {', '.join(missing) or 'heap of waiting requests'}"
    if not hasattr(EngineCoreProc, "_process_engine_step"):
        return "vLLM's engine core has no _process_engine_step"
    return None
