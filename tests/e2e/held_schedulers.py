"""vLLM's schedulers with our changes for speed and nothing else, for ``--scheduler-cls``. Imported in the engine process."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from workers.engines.vllm.held_outputs import HeldOutputs
from workers.engines.vllm.quick_slots import quicken


class Held(HeldOutputs, Scheduler):  # type: ignore[misc]
    """For one step at a time. Two streams get lumps, as large as there are.

    One alone gets none, as the engine compares the chunks of one when it starts.
    """

    many, stream_s = 2, 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.holds_outputs
        assert quicken(self.kv_cache_manager)


class AsyncHeld(HeldOutputs, AsyncScheduler):  # type: ignore[misc]
    """The same for asynchronous scheduling."""

    many, stream_s = 2, 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert self.holds_outputs
        assert quicken(self.kv_cache_manager)
