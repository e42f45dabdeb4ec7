"""Bulk's turns on the event loop."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
import uvloop

from tests.support import eventually
from workers.engines.vllm import turns as module
from workers.engines.vllm.turns import Turns

pytestmark = pytest.mark.asyncio


async def test_an_idle_loop_works_at_once() -> None:
    done: list[int] = []
    Turns().after(lambda: done.append(1))
    assert done == [1]


async def test_each_piece_has_a_turn_of_its_own() -> None:
    turns = Turns()
    done: list[int] = []
    seen: list[int] = []
    for n in range(5):
        turns.after(partial(done.append, n))
    while len(done) < 5:
        seen.append(len(done))
        await asyncio.sleep(0)
    assert done == [0, 1, 2, 3, 4]
    assert seen == [1, 2, 3, 4]


async def test_no_piece_is_done_while_a_call_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_S", 60.0)
    turns = Turns()
    done: list[int] = []
    turns.call_comes()
    turns.call_comes()
    for n in range(3):
        turns.after(partial(done.append, n))
    turns.call_is_gone()
    for _ in range(20):
        await asyncio.sleep(0)
    assert done == []
    turns.call_is_gone()
    await eventually(lambda: done == [0, 1, 2])


async def test_the_same_on_the_workers_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is uvloop's, whose timers are not asyncio's."""
    scenario = test_no_piece_is_done_while_a_call_is_on_its_way(monkeypatch)
    await asyncio.to_thread(uvloop.run, scenario)


async def test_calls_without_end_hold_bulk_back_for_a_bounded_time() -> None:
    turns = Turns()
    done: list[int] = []
    turns.call_comes()
    for n in range(3):
        turns.after(partial(done.append, n))
    assert done == []
    await eventually(lambda: done == [0, 1, 2])


async def test_a_call_that_comes_meanwhile_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOLD_S", 60.0)
    turns = Turns()
    done: list[int] = []
    for n in range(3):
        turns.after(partial(done.append, n))
    await asyncio.sleep(0)
    turns.call_comes()
    before = len(done)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(done) == before < 3
    turns.call_is_gone()
    await eventually(lambda: done == [0, 1, 2])


async def test_who_waits_no_more_does_not_hold_up_the_next() -> None:
    turns = Turns()
    done: list[int] = []
    turns.call_comes()
    gone = asyncio.create_task(turns.wait())
    await asyncio.sleep(0)
    gone.cancel()
    turns.after(lambda: done.append(1))
    turns.call_is_gone()
    await eventually(lambda: done == [1])


async def test_work_that_fails_does_not_stop_the_rest() -> None:
    turns = Turns()
    done: list[int] = []
    errors: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    turns.call_comes()
    turns.after(lambda: 1 / 0)
    turns.after(lambda: done.append(1))
    turns.call_is_gone()
    await eventually(lambda: done == [1])
    assert [type(error) for error in errors] == [ZeroDivisionError]
