"""The scheduler with lanes, in vLLM's real engine core on the paced executor: the contract with the pinned version."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workers.devices.tiny_models import build_tiny_model
from workers.engines.settings import VllmSettings
from workers.engines.vllm.held_outputs import IN_LUMPS
from workers.engines.vllm.lane_policy import BULK, STARVED_S
from workers.engines.vllm.step_cost import StepCost

PACE = StepCost(base_s=0.0005, per_decode_s=0.00001, per_prompt_token_s=0.000001)
SETTINGS = VllmSettings(model="", bulk_reserve=0.25)

pytestmark = pytest.mark.xdist_group("vllm")


class Core:
    """An engine core in this process, one step at a time.

    Attributes:
        texts: tokens so far, by request.
        order: requests in the order of their first tokens.
    """

    def __init__(self, core: Any) -> None:
        self.core = core
        self.texts: dict[str, list[int]] = {}
        self.order: list[str] = []
        self.ended: list[str] = []
        self.most_running = 0
        self._ids = itertools.count()

    @property
    def scheduler(self) -> Any:
        return self.core.scheduler

    def add(self, priority: int, prompt: int, tokens: int, *, prefix: int = 0, in_lumps: bool = False) -> str:
        """Add a request of so many prompt tokens, that asks for so many tokens."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        n = next(self._ids)
        name = f"{'call' if priority < BULK else 'bulk'}-{n}"
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
        if in_lumps:
            params.extra_args = {IN_LUMPS: True}
        ids = [300 + (prefix or n) % 7000, *(400 + k % 7000 for k in range(prompt - 1))]
        request = EngineCoreRequest(
            name, ids, None, params, None, float(n), None, None, None, priority=priority
        )
        self.core.add_request(*self.core.preprocess_add_request(request))
        self.texts[name] = []
        return name

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            outputs, _ = self.core.step_fn()
            self.most_running = max(self.most_running, len(self.scheduler.running))
            for group in (outputs or {}).values():
                for output in group.outputs:
                    if output.new_token_ids and not self.texts[output.request_id]:
                        self.order.append(output.request_id)
                    self.texts[output.request_id] += output.new_token_ids
                    if output.finish_reason is not None:
                        self.ended.append(output.request_id)

    def until(self, done: Callable[[], bool], limit: int = 3000) -> int:
        """Step until something holds; return how many steps that took."""
        for n in range(limit):
            if done():
                return n
            self.step()
        raise AssertionError(f"not within {limit} steps; ended: {self.ended}")

    def running(self, kind: str) -> int:
        return sum(request.request_id.startswith(kind) for request in self.scheduler.running)

    def prompt_tokens(self) -> list[int]:
        """Prompt tokens of each step so far."""
        return [step.prompt_tokens for step in self.core.model_executor.step_log()]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = os.environ.get("PENSTOCK_TEST_CACHE")
    return build_tiny_model(Path(cache) if cache else tmp_path_factory.mktemp("models"), "paced")


@pytest.fixture(scope="module")
def frozen_heap() -> Iterator[None]:
    """Keep the collector away from all that vLLM has imported: each core's start and end look through it several times."""
    import vllm.v1.engine.core

    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm.v1.engine.core, "freeze_gc_heap", lambda: None)
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(params=["asynchronous", "one at a time"])
def start(model: Path, request: pytest.FixtureRequest, frozen_heap: None) -> Iterator[Callable[..., Core]]:
    """Start engine cores; see ``begin`` for what may be set."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.core import EngineCore

    from workers.engines.vllm import lanes
    from workers.engines.vllm.boot import penstock_config
    from workers.engines.vllm.paced import PacedExecutor
    from workers.engines.vllm.pacing import set_pace

    made = []

    def begin(
        *,
        slots: int = 8,
        blocks: int = 2000,
        step_tokens: int = 2048,
        policy: str = "priority",
        pace: StepCost = PACE,
        **changes: Any,
    ) -> Core:
        args = AsyncEngineArgs(
            model=str(model),
            enforce_eager=True,
            max_model_len=min(8192, 16 * blocks - 32),
            max_num_seqs=slots,
            max_num_batched_tokens=step_tokens,
            num_gpu_blocks_override=blocks,
            scheduling_policy=policy,
            async_scheduling=request.param == "asynchronous",
        )
        config = args.create_engine_config()
        set_pace(config, args, penstock_config(config), pace)
        lanes.use(config, penstock_config(config), replace(SETTINGS, **changes))
        core = Core(EngineCore(config, PacedExecutor, log_stats=True))
        made.append(core.core)
        return core

    yield begin
    for core in made:
        core.shutdown()


def test_the_engine_uses_it(start: Callable[..., Core]) -> None:
    names = [base.__name__ for base in type(start().scheduler).__mro__]
    assert "LaneMixin" in names
    assert names[0] == ("LaneScheduler" if "AsyncScheduler" in names else "SyncLaneScheduler")


def test_bulk_fills_its_places_and_the_rest_waits_inside(start: Callable[..., Core]) -> None:
    core = start(slots=8)  # 6 places
    for _ in range(12):
        core.add(BULK, 20, 10)
    core.step(4)
    assert core.running("bulk") == 6
    core.until(lambda: len(core.ended) == 12)
    assert core.most_running == 6


def test_a_slot_refills_in_the_next_step(start: Callable[..., Core]) -> None:
    core = start(slots=8)
    core.add(BULK, 20, 4)
    for _ in range(7):
        core.add(BULK, 20, 60)
    core.until(lambda: len(core.ended) == 1)
    core.step(2)
    assert core.running("bulk") == 6


def test_a_call_finds_a_slot_beside_bulk(start: Callable[..., Core]) -> None:
    core = start(slots=8)
    for _ in range(12):
        core.add(BULK, 20, 50)
    core.step(4)
    call = core.add(0, 20, 5)
    core.until(lambda: call in core.ended, limit=12)
    assert core.scheduler.evictions == 0


def test_a_call_overtakes_bulk_that_waits(start: Callable[..., Core]) -> None:
    core = start(slots=4)
    for _ in range(10):
        core.add(BULK, 20, 30)
    core.step(3)
    call = core.add(0, 20, 5)
    core.until(lambda: call in core.ended)
    assert core.order.index(call) == 3  # after the three that ran


def test_calls_go_first_although_long_bulk_prompts_are_half_read(start: Callable[..., Core]) -> None:
    core = start(slots=8, step_tokens=512)
    for _ in range(6):
        core.add(BULK, 4000, 5)
    core.step(4)
    call = core.add(0, 400, 5)
    steps = core.until(lambda: bool(core.texts[call]))
    assert steps <= 4  # the steps under way, and its own


def test_bulk_prompts_are_read_in_pieces_while_calls_are_likely(start: Callable[..., Core]) -> None:
    core = start(slots=8, step_tokens=8192, pace=StepCost(0.0005, 0.0, 0.00005))
    for n in range(40):  # the fit needs some steps to learn from
        core.add(0, 20 + 10 * (n % 5), 4)
        core.step(3)
    core.until(lambda: len(core.ended) == 40)
    for _ in range(6):
        core.add(BULK, 2000, 5)
    before = len(core.prompt_tokens())
    core.until(lambda: len(core.ended) == 46)
    pieces = [tokens for tokens in core.prompt_tokens()[before:] if tokens]
    assert sum(pieces) == 12_000
    assert max(pieces) < 2000  # some 50: 5 steps of 0.5 ms, at 0.05 ms a token; more on a busy machine


def test_a_bulk_prompt_beside_bulk_that_decodes_is_spread_over_the_steps(start: Callable[..., Core]) -> None:
    core = start(slots=8, step_tokens=8192, pace=StepCost(0.004, 0.0, 0.00002))
    for n in range(40):  # the fit needs some steps to learn from
        core.add(0, 20 + 50 * (n % 5), 4)
        core.step(3)
    core.until(lambda: len(core.ended) == 40)
    for _ in range(5):
        core.add(BULK, 20, 300)
    core.until(lambda: core.running("bulk") == 5)
    core.step(20)
    before = len(core.prompt_tokens())
    last = core.add(BULK, 4000, 2)
    core.until(lambda: last in core.ended)
    pieces = [tokens for tokens in core.prompt_tokens()[before:] if tokens]
    assert sum(pieces) == 4000
    assert max(pieces) < 400  # some 50: a quarter of a step of 4 ms; a step of 20 ms would hold 800
    assert core.scheduler._room._even > 0.5 * pieces[0]


def test_without_calls_bulk_has_whole_steps(start: Callable[..., Core]) -> None:
    core = start(slots=8, step_tokens=8192)
    for _ in range(4):
        core.add(BULK, 2000, 5)
    core.until(lambda: len(core.ended) == 4)
    assert max(core.prompt_tokens()) == 8000


def test_bulk_makes_way_when_all_slots_are_taken(start: Callable[..., Core]) -> None:
    core = start(slots=4, bulk_reserve=0.0)
    bulk = [core.add(BULK, 40, 60, prefix=n + 1) for n in range(4)]
    core.step(20)
    assert core.running("bulk") == 4
    call = core.add(0, 20, 5)
    core.until(lambda: call in core.ended, limit=15)
    assert core.scheduler.evictions == 1
    core.until(lambda: len(core.ended) == 5)
    assert [len(core.texts[name]) for name in bulk] == [
        60
    ] * 4  # nothing of the one that made way is lost or said twice
    other = start(slots=4, bulk_reserve=0.0)
    alone = [other.add(BULK, 40, 60, prefix=n + 1) for n in range(4)]
    other.until(lambda: len(other.ended) == 4)
    assert [core.texts[name] for name in bulk] == [other.texts[name] for name in alone]


def test_calls_do_not_make_way_for_calls(start: Callable[..., Core]) -> None:
    """Classes are compared strictly, or two requests would evict each other in turn."""
    core = start(slots=4, bulk_reserve=0.0)
    for priority in (30, 20, 10, 30):
        core.add(priority, 20, 40)
    core.step(5)
    core.add(0, 20, 5)
    core.until(lambda: len(core.ended) == 5)
    assert core.scheduler.evictions == 0


def test_making_way_is_no_preemption(start: Callable[..., Core]) -> None:
    """Preemptions tell the worker that the KV cache is short; this is another thing."""
    from vllm.v1.engine import EngineCoreEventType

    core = start(slots=2, bulk_reserve=0.0)
    bulk = [core.add(BULK, 40, 30) for _ in range(2)]
    core.step(8)
    core.add(0, 20, 5)
    core.step()
    events = [event.type for name in bulk for event in core.scheduler.requests[name].events]
    assert core.scheduler.evictions == 1
    assert EngineCoreEventType.PREEMPTED not in events


def test_bulk_makes_way_when_the_kv_cache_is_full(start: Callable[..., Core]) -> None:
    core = start(slots=8, blocks=130, bulk_reserve=0.0)  # some 2,000 tokens
    bulk = [core.add(BULK, 480, 40, prefix=n + 1) for n in range(4)]
    core.step(6)
    call = core.add(0, 480, 5)
    core.until(lambda: bool(core.texts[call]), limit=12)
    core.until(lambda: len(core.ended) == 5)
    assert core.scheduler.evictions >= 1
    assert core.scheduler.evictions <= 4  # it does not come back at once, to go again
    assert [len(core.texts[name]) for name in bulk] == [40] * 4


def test_bulk_does_not_starve_behind_calls_for_ever(start: Callable[..., Core]) -> None:
    core = start(slots=2)
    now = 1000.0
    core.scheduler.clock = lambda: now
    for _ in range(2):
        core.add(0, 20, 50)
    bulk = core.add(BULK, 20, 3)
    for _ in range(200):
        core.step()
        now += STARVED_S / 50
        while core.scheduler.get_request_counts()[1] < 3:
            core.add(0, 20, 50)  # there is always a call that waits
        if bulk in core.ended:
            break
    assert bulk in core.ended


def test_bulk_that_comes_with_a_call_to_an_idle_engine_has_not_waited(start: Callable[..., Core]) -> None:
    """It was lifted before all calls at once: nothing had looked at bulk since the engine was idle."""
    core = start(slots=1)
    core.add(0, 20, 5)
    core.add(BULK, 20, 5)
    core.add(0, 20, 5)
    core.until(lambda: len(core.ended) == 3)
    assert core.ended[-1].startswith("bulk")


def test_an_aim_for_calls_makes_the_batch_of_bulk_smaller_and_loses_nothing(
    start: Callable[..., Core],
) -> None:
    core = start(slots=16, pace=StepCost(0.0005, 0.0005, 0.0), interactive_slo_ms=2.0)
    for n in range(60):
        core.add(0 if n % 2 else BULK, 20, 3 + n % 5)
        core.step(2)
    core.until(lambda: len(core.ended) == 60)
    bulk = [core.add(BULK, 20, 120) for _ in range(12)]
    core.add(0, 20, 2)
    core.until(lambda: core.running("bulk") == 12)
    core.step(6)
    steps = core.core.model_executor.step_log()
    assert max(step.decodes for step in steps[-5:]) < 10
    core.until(lambda: len(core.ended) == 73)
    assert [len(core.texts[name]) for name in bulk] == [120] * 12
    spread = [core.ended.index(name) for name in bulk]
    assert sorted(spread) == list(range(61, 73))  # all took their turns


def test_an_abort_of_a_request_that_made_way(start: Callable[..., Core]) -> None:
    core = start(slots=2, bulk_reserve=0.0)
    bulk = [core.add(BULK, 40, 30) for _ in range(2)]
    core.step(8)
    call = core.add(0, 20, 20)
    core.step(4)
    core.core.abort_requests(bulk)
    core.until(lambda: call in core.ended)
    core.step(2)
    assert core.scheduler.get_request_counts() == (0, 0)
    assert core.scheduler.kv_cache_manager.usage == 0.0


def test_a_stream_that_makes_way_gets_what_was_held_back(start: Callable[..., Core]) -> None:
    core = start(slots=4, bulk_reserve=0.0)
    core.scheduler.many, core.scheduler.stream_s = 1, 60.0
    bulk = [core.add(BULK, 40, 60, prefix=n + 1, in_lumps=True) for n in range(4)]
    requests = [core.scheduler.requests[name] for name in bulk]
    core.until(lambda: all(len(getattr(one, "penstock_held", None) or ()) >= 3 for one in requests))
    core.add(0, 20, 40)
    core.until(lambda: core.scheduler.evictions == 1, limit=5)
    core.step(2)
    (out,) = (one for one in requests if one.num_preemptions)
    assert out.status.name == "PREEMPTED"
    assert core.texts[out.request_id] == list(out.output_token_ids)
    core.until(lambda: len(core.ended) == 5)
    assert [core.texts[one.request_id] for one in requests] == [
        list(one.output_token_ids) for one in requests
    ]
    assert [one.num_output_tokens for one in requests] == [60] * 4


def test_another_policy_is_left_to_vllm(start: Callable[..., Core], caplog: pytest.LogCaptureFixture) -> None:
    core = start(policy="fcfs")
    assert "LaneMixin" not in [base.__name__ for base in type(core.scheduler).__mro__]
    core.add(0, 20, 5)
    core.until(lambda: len(core.ended) == 1)


def test_it_can_be_turned_off(start: Callable[..., Core]) -> None:
    core = start(lane_scheduler=False)
    assert type(core.scheduler).__module__.startswith("vllm.")


def test_a_vllm_that_it_does_not_fit_keeps_its_own(
    start: Callable[..., Core], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.engines.vllm import lanes

    monkeypatch.setitem(lanes._METHODS, "schedule_lanes", ("self",))
    core = start()
    assert type(core.scheduler).__module__.startswith("vllm.")


@pytest.mark.parametrize(
    ("calls", "bulk", "waits"), [(6, 0, True), (1, 1, True), (2, 0, False), (0, 6, False)]
)
def test_a_busy_engine_waits_for_calls_that_may_still_come(
    start: Callable[..., Core], calls: int, bulk: int, waits: bool
) -> None:
    """The next step is made up late, unless the engine is nearly idle, or no call is likely."""
    core = start(pace=replace(PACE, base_s=0.02))
    for _ in range(calls):
        core.add(0, 20, 200)
    for _ in range(bulk):
        core.add(BULK, 20, 200)
    core.step(60)
    one_ahead = (
        len(core.core.batch_queue or ()) == 1
    )  # only with asynchronous scheduling is there a step under way
    assert (core.scheduler.next_step_at() > 0) == (waits and one_ahead)


def test_the_fit_is_that_of_the_pace(start: Callable[..., Core]) -> None:
    """In a calm moment: a busy machine's own time comes on top."""
    core = start(slots=16, pace=StepCost(0.004, 0.0002, 0.00002))

    def fits() -> bool:
        before = len(core.ended)
        for n in range(60):
            core.add(0 if n % 2 else BULK, 20 + 50 * (n % 4), 3 + n % 5)
            core.step()
        core.until(lambda: len(core.ended) == before + 60)
        report = core.scheduler.report()
        assert report["base"] > 0.0035
        return report["base"] < 0.04 and 0 < report["decode"] < 0.002

    assert any(fits() for _ in range(20))
