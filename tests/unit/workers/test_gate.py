from __future__ import annotations

import asyncio

import pytest

from jobs.lanes import Lane
from tests.support import eventually
from workers.admission.gate import RowGate
from workers.admission.policy import LaneController
from workers.admission.rooms import Rooms
from workers.engines.base import EngineStats

pytestmark = pytest.mark.asyncio


async def test_rows_come_in_first_come_first_served_as_there_is_room() -> None:
    most = 2
    gate = RowGate(lambda running: most - running)
    order: list[int] = []

    async def enter(n: int) -> None:
        await gate.enter()
        order.append(n)

    tasks = [asyncio.create_task(enter(n)) for n in range(5)]
    await eventually(lambda: order == [0, 1])
    gate.leave()
    await eventually(lambda: order == [0, 1, 2])
    most = 4  # more room without a row's end
    await eventually(lambda: order == [0, 1, 2, 3, 4] or gate.running == 4)
    gate.leave()
    await asyncio.gather(*tasks)
    assert gate.running == 3


async def test_the_higher_lanes_rows_come_in_first() -> None:
    """Chunks ask for a row at a time, and several places come free at once."""
    gate = RowGate(lambda running: 4 - running)
    order: list[str] = []

    async def chunk(name: str, lane: Lane, rows: int) -> None:
        for _ in range(rows):
            await gate.enter(lane.engine_priority)
            order.append(name)

    tasks = [asyncio.create_task(chunk(name, Lane.BULK, 20)) for name in ("b1", "b2")]
    await eventually(lambda: len(order) == 4)
    tasks.append(asyncio.create_task(chunk("n", Lane.NORMAL, 6)))
    tasks.append(asyncio.create_task(chunk("h", Lane.HIGH, 10)))
    await asyncio.sleep(0)
    while len(order) < 56:
        for _ in range(gate.running):
            gate.leave()
        await eventually(lambda: gate.running == 4 or len(order) == 56)
    await asyncio.gather(*tasks)
    assert order[4:20] == ["h"] * 10 + ["n"] * 6
    assert set(order[20:]) == {"b1", "b2"}
    assert gate.running <= 4


async def test_who_is_cancelled_takes_no_place() -> None:
    gate = RowGate(lambda running: 1 - running)
    await gate.enter()
    waiting = [asyncio.create_task(gate.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.leave()
    waiting[1].cancel()  # it was just let in
    await asyncio.gather(*waiting[:2], return_exceptions=True)
    await waiting[2]
    assert gate.running == 1


class Calm:
    def stats(self) -> EngineStats:
        return EngineStats(0, 0, 0.0)

    def capacity(self) -> int:
        return 32


async def test_rows_wait_ahead_in_the_engine_only_where_its_slots_are_the_limit() -> None:
    for slots, rows in ((32, 34), (16, 16)):
        rooms = Rooms(Calm(), LaneController(slots, 0.0))  # type: ignore[arg-type]
        for _ in range(rows):
            async with asyncio.timeout(1):
                await rooms.gate.enter()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await rooms.gate.enter()


async def test_rows_count_and_chunks_do_not() -> None:
    rooms = Rooms(Calm(), LaneController(16, 0.25))  # type: ignore[arg-type]
    assert rooms.messages() == 12
    rooms.pool = lambda: (3, 0)  # three bulk messages, of which two are chunks
    rooms.chunks = lambda: (2, 0)
    rooms.claimed = lambda: 3
    for _ in range(11):
        await rooms.gate.enter()
    assert rooms.gate.running == 11
    assert rooms.messages() == 0  # 11 rows and a job
    rooms.gate.leave()
    assert rooms.messages() == 1
    rooms.pending = lambda: 5
    assert rooms.messages() == 0  # the chunks here have rows that wait
    rooms.pending = lambda: 0
    rooms.claimed = lambda: 2
    assert rooms.messages() == 0  # a message that was taken may be a chunk


async def test_rows_make_way_for_more_than_what_is_reserved() -> None:
    rooms = Rooms(Calm(), LaneController(16, 0.25))  # type: ignore[arg-type]
    rooms.pool = lambda: (0, 3)
    assert rooms.messages() == 12
    rooms.pool = lambda: (0, 4)
    assert rooms.messages() == 11  # a place is left for the next interactive job
    rooms.pool = lambda: (0, 16)
    assert rooms.messages() == 0
