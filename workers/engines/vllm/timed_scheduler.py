"""vLLM's scheduler with a log of its steps. For fitting a pace; imported in the engine's process only.

A step takes from when it was scheduled, or from the end of the step before if that is later, until its output is there. So
it is the device's time with asynchronous scheduling, too.
"""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from workers.engines.vllm.paced_config import STEP_LOG


def make_scheduler(**arguments: Any) -> Scheduler:
    """Return a scheduler with a log: the one that vLLM would take for this config."""
    config = arguments["vllm_config"]
    made = AsyncScheduler if config.scheduler_config.async_scheduling else Scheduler
    path = Path(config.additional_config["penstock"][STEP_LOG])
    return _logged(made(**arguments), path)


def _logged(scheduler: Any, path: Path) -> Any:
    """Add the log, a line of JSON for each step with tokens: its decodes, its prompt tokens, and the seconds it took."""
    schedule, update = scheduler.schedule, scheduler.update_from_output
    open_steps: deque[tuple[float, int, int]] = deque()
    last_end = 0.0
    log = path.open("a", buffering=1)

    def timed_schedule(*args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic()
        output = schedule(*args, **kwargs)
        if output.total_num_scheduled_tokens:
            open_steps.append((begun, *_count(scheduler.requests, output)))
        return output

    def timed_update(output: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal last_end
        if output.total_num_scheduled_tokens:
            now = time.monotonic()
            begun, decodes, prompt_tokens = open_steps.popleft()
            log.write(json.dumps([decodes, prompt_tokens, now - max(begun, last_end)]) + "\n")
            last_end = now
        return update(output, *args, **kwargs)

    scheduler.schedule, scheduler.update_from_output = timed_schedule, timed_update
    return scheduler


def _count(requests: Any, output: Any) -> tuple[int, int]:
    """Return how many sequences decode in a step that was just made up, and how many prompt tokens it reads."""
    decodes = prompt_tokens = 0
    for name, count in output.num_scheduled_tokens.items():
        request = requests[name]
        if request.num_computed_tokens - count >= request.num_prompt_tokens:
            decodes += 1
        else:
            prompt_tokens += count
    return decodes, prompt_tokens
