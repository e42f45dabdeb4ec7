"""The way of a request to the engine core."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import eventually
from workers.engines.base import EngineDeadError, EngineRequest
from workers.engines.settings import VllmSettings
from workers.engines.vllm.engine import VllmEngine
from workers.engines.vllm.lane_policy import BULK
from workers.engines.vllm.rendering import (
    BULK_AT_ONCE,
    MANY_CALLS,
    SHORT_BYTES,
    PriorityExecutor,
    Way,
    arrived,
    by_priority,
    end_in_turn,
    in_order_of,
)

pytestmark = pytest.mark.asyncio


async def test_a_call_is_rendered_before_bulk_that_waits() -> None:
    order: list[str] = []
    executor, way = PriorityExecutor(1), Way()
    loop, busy, go = asyncio.get_running_loop(), threading.Event(), threading.Event()

    def occupy() -> None:
        busy.set()
        go.wait(10)

    async def render(name: str, priority: int) -> None:
        async with way.taken(priority):
            arrived()  # the bound is another test's
            await loop.run_in_executor(executor, order.append, name)

    first = loop.run_in_executor(executor, occupy)
    await asyncio.to_thread(busy.wait, 10)
    tasks = [asyncio.create_task(render(f"bulk{n}", BULK)) for n in range(50)]
    await eventually(lambda: len(executor._work) == 50)
    tasks += [asyncio.create_task(render(name, at)) for name, at in (("low", 30), ("call", 0), ("call2", 0))]
    await eventually(lambda: len(executor._work) == 53)
    go.set()
    await asyncio.gather(first, *tasks)
    assert order == ["call", "call2", "low", *(f"bulk{n}" for n in range(50))]
    executor.shutdown()


async def test_what_is_counted_for_bulk_waits_for_calls() -> None:
    order: list[str] = []
    executor, loop, go = PriorityExecutor(1), asyncio.get_running_loop(), threading.Event()
    first = loop.run_in_executor(executor, go.wait, 10)

    async def count(name: str, priority: int) -> None:
        with in_order_of(priority):
            await loop.run_in_executor(executor, order.append, name)

    tasks = [asyncio.create_task(count(name, at)) for name, at in (("bulk", BULK), ("low", 30), ("call", 0))]
    await eventually(lambda: len(executor._work) >= 3)
    go.set()
    await asyncio.gather(first, *tasks)
    assert order == ["call", "low", "bulk"]
    executor.shutdown()


async def test_work_that_was_cancelled_is_not_done_and_errors_reach_who_waits() -> None:
    done: list[int] = []
    executor = PriorityExecutor(1)
    go = threading.Event()
    blocked = executor.submit(go.wait, 10)
    dropped, failing = executor.submit(done.append, 1), executor.submit(int, "x")
    assert dropped.cancel()
    go.set()
    with pytest.raises(ValueError, match="invalid literal"):
        await asyncio.wrap_future(failing)
    assert (blocked.result(), done) == (True, [])
    executor.shutdown(wait=True, cancel_futures=True)
    with pytest.raises(RuntimeError):
        executor.submit(int)


async def test_refused_work_takes_nobodys_turn() -> None:
    executor, go = PriorityExecutor(1), threading.Event()
    blocked = executor.submit(go.wait, 10)
    async with Way().taken(30):
        accepted = executor.submit(str, "accepted")
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError):
        executor.submit(str, "refused")  # of a call, so it would be the first
    go.set()
    assert (blocked.result(10), accepted.result(10)) == (True, "accepted")


async def rendered_in(executor: PriorityExecutor, priority: int, body: bytes) -> str:
    """Return the name of the thread that renders a request."""
    async with Way().taken(priority, body):
        rendered = asyncio.get_running_loop().run_in_executor(
            executor, lambda: threading.current_thread().name
        )
        return await rendered


async def test_a_short_call_waits_for_no_thread() -> None:
    executor, go = PriorityExecutor(1), threading.Event()
    stuck, here = executor.submit(go.wait, 30), threading.current_thread().name
    assert await rendered_in(executor, 0, b"x" * SHORT_BYTES) == here
    go.set()
    assert stuck.result(10)
    executor.shutdown()


@pytest.mark.parametrize(
    ("priority", "body"),
    [
        (BULK, b"{}"),
        (0, b"x" * (SHORT_BYTES + 1)),
        (0, b'{"chat_template": "{% for _ in range(99999999) %}{% endfor %}"}'),
        (0, b'{"chat_template_kwargs": {"times": 99999999}}'),
    ],
)
async def test_what_may_take_long_goes_to_a_thread(priority: int, body: bytes) -> None:
    executor = PriorityExecutor(1)
    assert (await rendered_in(executor, priority, body)).startswith("render")
    executor.shutdown()


@pytest.mark.parametrize(("cores", "at_once"), [(4, MANY_CALLS), (2, 20)])
async def test_of_many_short_calls_most_go_to_a_thread_if_there_is_a_core_for_it(
    cores: int, at_once: int
) -> None:
    """The event loop has more to do then, and a thread works beside it."""
    executor, way, names = PriorityExecutor(1), Way(cores), []

    async def render() -> None:
        async with way.taken(0, b"{}"):
            await asyncio.sleep(0)  # until all have come
            names.append(await loop.run_in_executor(executor, lambda: threading.current_thread().name))

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(render() for _ in range(20)))
    assert sum(name.startswith("render") for name in names) == 20 - at_once
    executor.shutdown()


async def test_calls_go_to_a_thread_if_the_tokenizer_is_slow() -> None:
    executor = PriorityExecutor(1)
    async with Way().taken(0, b"{}"):
        executor.submit(time.sleep, 0.05).result()
    assert (await rendered_in(executor, 0, b"{}")).startswith("render")
    for _ in range(1000):  # and are tried again later
        if not (await rendered_in(executor, 0, b"{}")).startswith("render"):
            break
    else:
        pytest.fail("never at once again")
    executor.shutdown()


async def test_an_error_of_a_short_call_reaches_who_waits() -> None:
    executor = PriorityExecutor(1)
    async with Way().taken(0, b"{}"):
        with pytest.raises(ValueError, match="invalid literal"):
            await asyncio.get_running_loop().run_in_executor(executor, int, "x")
    executor.shutdown()


class Collector:
    """As vLLM's."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, output: Any) -> None:
        self.got.append(output)


async def test_the_ends_of_bulk_wait_for_calls_on_their_way_and_those_of_calls_do_not() -> None:
    way, bulk, call = Way(), Collector(), Collector()
    async with way.taken(BULK):
        arrived()
        end_in_turn(bulk)
    part, end = SimpleNamespace(finished=False), SimpleNamespace(finished=True)
    async with way.taken(0):
        end_in_turn(call)
        for output in (part, end):
            bulk.put(output)
            call.put(output)
        assert (bulk.got, call.got) == ([part], [part, end])
        arrived()
        await eventually(lambda: bulk.got == [part, end])


async def test_two_bulk_requests_are_on_their_way_and_calls_do_not_wait() -> None:
    way, inside, go = Way(), [], asyncio.Event()

    async def run(name: str, priority: int) -> None:
        async with way.taken(priority):
            inside.append(name)
            await go.wait()

    tasks = [asyncio.create_task(run(f"bulk{n}", BULK)) for n in range(5)]
    await eventually(lambda: len(inside) == BULK_AT_ONCE)
    tasks.append(asyncio.create_task(run("call", 0)))
    await eventually(lambda: "call" in inside)
    assert inside == ["bulk0", "bulk1", "call"]
    go.set()
    await asyncio.gather(*tasks)
    assert len(inside) == 6


async def test_a_request_that_is_with_the_engine_makes_room() -> None:
    way, go = Way(), asyncio.Event()
    inside = 0

    async def run() -> None:
        nonlocal inside
        async with way.taken(BULK):
            inside += 1
            await asyncio.create_task(hand_over())  # from a task below, as vLLM does
            await go.wait()

    async def hand_over() -> None:
        arrived()
        arrived()  # a request of several prompts

    tasks = [asyncio.create_task(run()) for _ in range(10)]
    await eventually(lambda: inside == 10)
    go.set()
    await asyncio.gather(*tasks)


async def test_bulk_that_fetches_images_for_long_does_not_hold_up_the_rest() -> None:
    way, inside, go = Way(), [], asyncio.Event()

    async def run(name: str) -> None:
        async with way.taken(BULK):
            inside.append(name)
            await go.wait()

    tasks = [asyncio.create_task(run(f"slow{n}")) for n in range(BULK_AT_ONCE)]
    await eventually(lambda: len(inside) == BULK_AT_ONCE)
    tasks.append(asyncio.create_task(run("next")))
    await eventually(lambda: "next" in inside)
    go.set()
    await asyncio.gather(*tasks)
    assert way._free._value == BULK_AT_ONCE  # given back once each


@pytest.mark.parametrize("where", ["waiting", "inside", "handed over"])
async def test_a_cancelled_request_leaves_no_place_taken(where: str) -> None:
    way, go = Way(), asyncio.Event()

    async def run(*, hand: bool = False) -> None:
        async with way.taken(BULK):
            if hand:
                arrived()
            await go.wait()

    held = [asyncio.create_task(run()) for _ in range(BULK_AT_ONCE if where == "waiting" else 0)]
    await asyncio.sleep(0)
    victim = asyncio.create_task(run(hand=where == "handed over"))
    await asyncio.sleep(0)
    victim.cancel()
    await asyncio.gather(victim, return_exceptions=True)
    assert victim.cancelled()
    go.set()
    await asyncio.gather(*held)
    assert way._free._value == BULK_AT_ONCE


async def test_outside_of_a_request_nothing_happens() -> None:
    arrived()


async def test_a_job_that_waits_is_not_the_cause_of_the_engines_death() -> None:
    engine: Any = VllmEngine(VllmSettings(model="any"))
    engine._llm = llm = SimpleNamespace(errored=False)
    async with engine._front.way.taken(BULK), engine._front.way.taken(BULK):
        request = EngineRequest("waits", "/v1/completions", b"{}", priority=BULK)
        waits = asyncio.create_task(engine.run(request, lambda chunk: None))
        await eventually(lambda: engine._front.way._free._waiters)
        llm.errored = True
    with pytest.raises(EngineDeadError) as died:
        await waits
    assert not died.value.reached


async def test_the_order_is_kept_when_vllm_gives_up_a_stuck_thread() -> None:
    class Swappable:
        """What vLLM's renderer has."""

        _max_workers = 1

        def __init__(self) -> None:
            self._inner: Executor = ThreadPoolExecutor(1)

        def replace_inner(self) -> None:
            self._inner = ThreadPoolExecutor(1)

    swappable, go = Swappable(), threading.Event()
    assert by_priority(SimpleNamespace(_executor=swappable))
    first = swappable._inner
    stuck = first.submit(go.wait, 10)
    swappable.replace_inner()
    assert isinstance(swappable._inner, PriorityExecutor)
    assert swappable._inner is not first
    assert swappable._inner.submit(str, "goes on").result(10) == "goes on"
    go.set()
    assert stuck.result(10)
    swappable._inner.shutdown()


async def test_an_unknown_renderer_is_left_alone() -> None:
    assert not by_priority(SimpleNamespace())
    assert not by_priority(SimpleNamespace(_executor=ThreadPoolExecutor(1)))


async def test_images_of_a_call_are_processed_before_those_of_bulk_and_one_at_a_time() -> None:
    order: list[str] = []
    busy, go, way = threading.Event(), threading.Event(), Way()

    def process(name: str) -> str:
        if name == "first":
            busy.set()
            go.wait(10)
        order.append(f"{name} in {threading.current_thread().name}")
        return name

    old, closed = ThreadPoolExecutor(1), []
    renderer = SimpleNamespace(
        _executor=SimpleNamespace(_inner=ThreadPoolExecutor(1), _max_workers=1, replace_inner=lambda: None),
        mm_processor=object(),
        _mm_executor=old,
        _resources=SimpleNamespace(callback=lambda close, **_: closed.append(close)),
        _process_multimodal=process,
        clear_mm_cache=lambda: order.append("cleared"),
    )
    assert by_priority(renderer)
    with pytest.raises(RuntimeError):
        old.submit(print)  # it was shut down

    async def render(name: str, priority: int) -> None:
        async with way.taken(
            priority, b"{}"
        ):  # a short call's templates are rendered at once, its images are not
            arrived()
            assert await renderer._process_multimodal_async(name) == name

    tasks = [asyncio.create_task(render("first", 0))]
    await asyncio.to_thread(busy.wait, 10)
    tasks += [asyncio.create_task(render(f"bulk{n}", BULK)) for n in range(3)]
    await eventually(lambda: len(renderer._mm_executor._work) == 3)
    tasks.append(asyncio.create_task(render("call", 0)))
    await eventually(lambda: len(renderer._mm_executor._work) == 4)
    go.set()
    await asyncio.gather(*tasks)
    await renderer._clear_mm_cache_async()
    assert [line.partition(" ")[0] for line in order] == [
        "first",
        "call",
        "bulk0",
        "bulk1",
        "bulk2",
        "cleared",
    ]
    assert {line.partition(" in ")[2] for line in order if " in " in line} == {"render_0"}
    for close in closed:
        close()
