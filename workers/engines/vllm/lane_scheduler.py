"""vLLM's scheduler, with lanes: calls before bulk inside the engine. Imported in the engine process only.

vLLM gives the tokens of a step to the running requests in the order of their admission, and the rest to those that wait.
So the half-read prompts of bulk come before a call, one step may hold as many of their tokens as
``max_num_batched_tokens``, and a full table of slots makes a call wait. :class:`LaneMixin` steers four things before each
step, and leaves the step itself to vLLM:

- the order of the running requests, and the step's budget (:class:`.lane_policy.BulkRoom`);
- how many may run, so that slots stay free for calls while bulk waits inside the engine;
- who makes way: if no slot, or no KV cache, is left for a call that waits, bulk goes back to the waiting ones;
- which bulk sequences sit a step out, if ``interactive_slo_ms`` asks for a smaller batch.

With asynchronous scheduling vLLM makes step k+1 up as soon as step k has begun, so a call that comes during k misses both.
While calls are likely and the engine is busy, :meth:`LaneMixin.next_step_at` puts that off until shortly before k ends, as
the fit of earlier steps (:class:`.step_model.StepModel`) foretells.

The interface is not public: ``tests/e2e/test_lane_scheduler.py`` holds the contract for the pinned version, and
:func:`.lanes.misfit` looks at it before it is used.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from workers.engines.vllm import core_hooks
from workers.engines.vllm.held_outputs import HeldOutputs
from workers.engines.vllm.lane_policy import (
    BULK,
    RECENT_S,
    STARVED_S,
    BulkRoom,
    LaneSettings,
    Load,
    Margin,
    active,
    bulk_decodes,
)
from workers.engines.vllm.quick_slots import quicken
from workers.engines.vllm.step_model import StepModel

_EVICT_AT_ONCE = 4
_MOST_HOLD_S = 0.25
_BUSY = 0.5
"""From this share of the slots on, calls alone are a load under which one more is likely to come during each step."""
_CALL_PROMPT = 0.05
"""Weight of a new call in the mean length of calls' prompts."""


class LaneMixin:
    """Steers the scheduler that follows it in the method resolution order.

    Attributes:
        clock: seconds that never go back.
        evictions: bulk requests that made way for calls, since the start.
    """

    clock = staticmethod(time.monotonic)

    # vLLM's, of the scheduler that follows:
    block_size: int
    kv_cache_manager: Any
    log_stats: bool
    max_num_active_reqs: int
    max_num_scheduled_tokens: int
    num_spec_tokens: int
    requests: dict[str, Any]
    running: list[Any]
    scheduler_config: Any
    vllm_config: Any
    waiting: Any
    _preempt_request: Callable[..., None]
    _request_blocks_can_be_freed: Callable[[Any], bool]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lanes = LaneSettings(**self.vllm_config.additional_config["penstock"]["lanes"])
        quicken(self.kv_cache_manager)
        self._most_tokens, self._most_running = self.max_num_scheduled_tokens, self.max_num_active_reqs
        self._model = StepModel()
        self._room = BulkRoom(self._model, self._lanes)
        self._margin = Margin()
        self._call_prompt = 0.0
        self._last_call_s = self._bulk_ran_s = float("-inf")
        self._under_way: deque[tuple[float, int, int]] = deque()  # steps: begun at, decodes, prompt tokens
        self._ended_s = 0.0
        self._handed_s = 0.0
        self._piece = 0  # the longest piece of a prompt in the next step; 0: as vLLM is set
        self._bulk_running = 0
        self._timely = False
        self.evictions = 0

    # ---- what the engine core calls ----------------------------------------------------------------------------------

    def add_request(self, request: Any) -> None:
        """Also see whether it is a call."""
        if not self.requests:
            self._bulk_ran_s = self.clock()  # no step has looked since the engine was idle
        if request.priority < BULK:
            self._last_call_s = self.clock()
            self._call_prompt += _CALL_PROMPT * (request.num_prompt_tokens - self._call_prompt)
        super().add_request(request)  # type: ignore[misc]

    def schedule(self, throttle_prefills: bool = False) -> Any:  # noqa: FBT001, FBT002 - vLLM's
        """Make up the next step within the bounds of the lanes."""
        now = self.clock()
        resting = self._prepare(now)
        config, usual = self.scheduler_config, self.scheduler_config.long_prefill_token_threshold
        config.long_prefill_token_threshold = self._piece or usual
        try:
            output = super().schedule(throttle_prefills)  # type: ignore[misc]
        finally:
            config.long_prefill_token_threshold = usual
            self.running += resting
        self._note(output)
        return output

    def get_grammar_bitmask(self, scheduler_output: Any) -> Any:
        """Also see when a step was handed over: vLLM asks just after that."""
        self._handed_s = self.clock()
        return super().get_grammar_bitmask(scheduler_output)  # type: ignore[misc]

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Also measure the step that has ended."""
        if scheduler_output.total_num_scheduled_tokens and self._under_way:
            now = self.clock()
            begun, decodes, prompt = self._under_way.popleft()
            self._model.learn(decodes, prompt, now - max(begun, self._ended_s))
            if self._timely and self._under_way:
                late = Margin.LATE_SHARE if self._bulk_running else Margin.LATE_SHARE_OF_CALLS
                self._margin.learn(now - self._handed_s, late)
            self._ended_s = now
        outputs = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        return core_hooks.stats_to_worker(outputs)

    def report(self) -> dict[str, float]:
        """Return figures for the metrics: evictions, and the fit of a step in seconds."""
        found = {"evictions": float(self.evictions), "margin_s": self._margin.seconds}
        if self._model.ready:
            found |= self._model.costs()
        return found

    def next_step_at(self) -> float:
        """Return the time (of the monotonic clock) until which the next step may wait for arrivals; 0.0: make it up now."""
        now = self.clock()
        self._timely = False
        if (
            not self._lanes.just_in_time
            or len(self._under_way) != 1
            or not self._model.ready
            or now - self._last_call_s > RECENT_S
            or not (self._bulk_running or len(self.running) >= _BUSY * self._most_running)
        ):
            return 0.0
        begun, decodes, prompt = self._under_way[0]
        end = max(begun, self._ended_s) + self._model.step_s(decodes, prompt)
        self._timely = True
        return min(end - self._margin.seconds, now + _MOST_HOLD_S)

    # ---- before a step -----------------------------------------------------------------------------------------------

    def _prepare(self, now: float) -> list[Any]:
        """Set order and bounds of the next step; return the bulk sequences that sit it out."""
        waiting = self._waiting_calls()
        if waiting:
            self._make_way(waiting)
        first: list[Any] = []
        reading: list[Any] = []
        decoding: list[Any] = []
        last: list[Any] = []
        for request in self.running:
            if request.priority < BULK:
                (reading if request.is_prefill_chunk else first).append(request)
            else:
                (last if request.is_prefill_chunk else decoding).append(request)
        bulk = self._bulk_running = len(decoding) + len(last)
        if bulk or len(self.waiting) == len(waiting):
            self._bulk_ran_s = now
        elif now - self._bulk_ran_s > STARVED_S:
            self._lift_one(now)
        load = Load(
            decodes=len(first) + len(decoding),
            bulk_decodes=len(decoding),
            call_tokens=sum(r.num_tokens - r.num_computed_tokens for r in reading)
            + sum(r.num_tokens for r in waiting),
            bulk_tokens=sum(r.num_tokens - r.num_computed_tokens for r in last)
            + (1 << 20 if len(self.waiting) > len(waiting) else 0),
            likely=now - self._last_call_s <= RECENT_S,
        )
        room = self._room.tokens(load, self._most_tokens)
        resting = self._rest(decoding, load)
        self._piece = 0
        if waiting and last:
            # vLLM serves those that run first, so of bulk's half-read prompts none may run, or one in a bounded piece.
            kept = 0 if self._room.holds else 1
            self._piece = kept and max(room, *(r.num_tokens for r in waiting))
            room = max(room, self._piece)
            resting, last = resting + last[kept:], last[:kept]
        if reading or last or resting:
            rested = set(resting)
            self.running[:] = [*first, *reading, *(r for r in decoding if r not in rested), *last]
        tokens = (1 + self.num_spec_tokens) * load.decodes + load.call_tokens
        self.max_num_scheduled_tokens = max(1, min(self._most_tokens, tokens + room))
        self.max_num_active_reqs = active(
            len(first) + len(reading),
            len(waiting),
            bulk,
            self._lanes.places,
            self.kv_cache_manager.usage,
            self._most_running,
        ) - len(resting)
        return resting

    def _waiting_calls(self) -> list[Any]:
        heap = self.waiting._heap  # noqa: SLF001 - iterating over the queue itself sorts it
        return [r for r in heap if r.priority < BULK] if heap and heap[0].priority < BULK else []

    def _rest(self, decoding: list[Any], load: Load) -> list[Any]:
        """Choose the bulk sequences that sit the step out: the first in the list, which goes round."""
        spare = len(decoding) - bulk_decodes(self._model, self._lanes, load, self._call_prompt)
        return decoding[:spare] if spare > 0 else []

    def _make_way(self, waiting: list[Any]) -> None:
        """Put bulk back to the waiting ones, if the calls that wait find no slot or no KV cache."""
        slots = self._most_running - len(self.running)
        pool = self.kv_cache_manager.block_pool
        blocks = sum(-(-r.num_tokens // self.block_size) for r in waiting)
        for _ in range(_EVICT_AT_ONCE):
            if slots >= len(waiting) and pool.get_num_free_blocks() >= blocks:
                return
            victim = min(
                (r for r in self.running if r.priority >= BULK and self._request_blocks_can_be_freed(r)),
                key=lambda r: r.num_output_tokens,
                default=None,
            )
            if victim is None:
                return
            self.running.remove(victim)
            self._preempt_request(victim, self.clock())
            if self.log_stats:
                victim.events.pop()  # "preempted": a sign of a KV cache that is too small, to those who count it
            slots += 1
            self.evictions += 1

    def _lift_one(self, now: float) -> None:
        """Let the first of bulk, which has waited too long, go before all calls."""
        oldest = min((r for r in self.waiting._heap if r.priority >= BULK), default=None)  # noqa: SLF001
        if oldest is not None:
            self.waiting.remove_request(oldest)
            oldest.priority = -1
            self.waiting.add_request(oldest)
            self._bulk_ran_s = now

    # ---- after it ----------------------------------------------------------------------------------------------------

    def _note(self, output: Any) -> None:
        """Remember what the step holds, for the fit."""
        if not output.total_num_scheduled_tokens:
            return
        tokens, requests = output.num_scheduled_tokens, self.requests
        prompt = sum(tokens[new.req_id] for new in output.scheduled_new_reqs)
        reading = {name: count for name, count in tokens.items() if count > 1 + self.num_spec_tokens}
        prompt = max(prompt, sum(reading.values()))
        self._room.used(sum(count for name, count in reading.items() if requests[name].priority >= BULK))
        self._under_way.append((self.clock(), len(tokens) - len(reading), prompt))


class LaneScheduler(LaneMixin, HeldOutputs, AsyncScheduler):  # type: ignore[misc]
    """For asynchronous scheduling."""


class SyncLaneScheduler(LaneMixin, HeldOutputs, Scheduler):  # type: ignore[misc]
    """For one step at a time."""


core_hooks.install()
