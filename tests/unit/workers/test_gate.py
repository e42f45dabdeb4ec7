"""Admission to the engine: rows wait in the gate, and jobs are counted there."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from broker.claims import Claim
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.facts import EngineStats
from jobs.lanes import Lane
from tests.support import eventually, new_id
from workers.admission.gate import Gate
from workers.admission.pace import BURST, Pace
from workers.admission.policy import LaneController

UNPACED = 10_000
"""A pace for so many slots lets 200 in at once."""


class Calm:
    def __init__(self, capacity: int = 32, *, in_process: bool = True) -> None:
        self._capacity, self.in_process = capacity, in_process

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, 0.0)

    def capacity(self) -> int:
        return self._capacity


def make_gate(slots: int, reserve: float = 0.0, *, holds_bulk: bool = False) -> Gate:
    lanes = LaneController(slots, reserve, holds_bulk=holds_bulk)
    return Gate(Calm(), lanes, Pace(UNPACED))  # type: ignore[arg-type]


def claim(lane: Lane = Lane.NORMAL, endpoint: str = "/v1/completions", **facts: int) -> Claim:
    return Claim(new_id(), 1, endpoint, False, lane, "m", b"", **facts)  # type: ignore[arg-type]


def take(gate: Gate, count: int, lane: Lane = Lane.NORMAL) -> list[Claim]:
    claims = [claim(lane) for _ in range(count)]
    for one in claims:
        gate.take(one)
    return claims


def take_chunk(gate: Gate, lane: Lane = Lane.BULK) -> Claim:
    chunk = claim(lane, CHUNK_ENDPOINT)
    gate.take(chunk)
    return chunk


@pytest.mark.asyncio
async def test_rows_come_in_first_come_first_served_as_there_is_room() -> None:
    gate = make_gate(10)
    jobs = take(gate, 8, Lane.BULK)  # no chunks
    order: list[int] = []

    async def acquire(n: int) -> None:
        await gate.acquire()
        order.append(n)

    tasks = [asyncio.create_task(acquire(n)) for n in range(5)]
    await eventually(lambda: order == [0, 1])
    gate.release()
    await eventually(lambda: order == [0, 1, 2])
    gate.settle(jobs[0])
    gate.settle(jobs[1])  # more room without a row's end
    await eventually(lambda: order == [0, 1, 2, 3, 4])
    assert gate.running_rows == 4
    gate.release()
    await asyncio.gather(*tasks)
    assert gate.running_rows == 3


@pytest.mark.parametrize(("in_process", "most"), [(True, 17), (False, 16)])
@pytest.mark.asyncio
async def test_a_server_of_others_gets_no_row_beyond_its_capacity(in_process: bool, most: int) -> None:
    """An engine of this worker's own gets a few, so that no step runs with an empty slot."""
    engine = Calm(16, in_process=in_process)
    gate = Gate(engine, LaneController(16, 0.0), Pace(UNPACED))  # type: ignore[arg-type]
    waiting = [asyncio.create_task(gate.acquire()) for _ in range(40)]
    await eventually(lambda: gate.running_rows == most)
    for _ in range(10):
        gate.release()
        await asyncio.sleep(0)
        assert gate.running_rows <= most
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.asyncio
async def test_the_higher_lanes_rows_come_in_first() -> None:
    """Chunks ask for a row at a time, and several places come free at once."""
    gate = make_gate(4)
    order: list[str] = []

    async def chunk(name: str, lane: Lane, rows: int) -> None:
        with gate.open_chunk(claim(lane, CHUNK_ENDPOINT), rows) as slots:
            for _ in range(rows):
                await slots.acquire()
                order.append(name)

    tasks = [asyncio.create_task(chunk(name, Lane.BULK, 20)) for name in ("b1", "b2")]
    await eventually(lambda: len(order) == 4)
    tasks.append(asyncio.create_task(chunk("n", Lane.NORMAL, 6)))
    tasks.append(asyncio.create_task(chunk("h", Lane.HIGH, 10)))
    await asyncio.sleep(0)
    while len(order) < 56:
        for _ in range(gate.running_rows):
            gate.release()
        await eventually(lambda: gate.running_rows == 4 or len(order) == 56)
    await asyncio.gather(*tasks)
    assert order[4:20] == ["h"] * 10 + ["n"] * 6
    assert set(order[20:]) == {"b1", "b2"}
    assert gate.running_rows <= 4


@pytest.mark.asyncio
async def test_a_wait_that_is_cancelled_takes_no_place() -> None:
    gate = make_gate(1)
    await gate.acquire()
    waiting = [asyncio.create_task(gate.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.release()
    waiting[1].cancel()  # it was just admitted
    await asyncio.gather(*waiting[:2], return_exceptions=True)
    await waiting[2]
    assert gate.running_rows == 1


@pytest.mark.asyncio
async def test_rows_wait_ahead_in_the_engine_only_where_its_slots_are_the_limit() -> None:
    for slots, rows in ((32, 34), (16, 16)):
        gate = make_gate(slots)
        for _ in range(rows):
            async with asyncio.timeout(20):
                await gate.acquire()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await gate.acquire()


@pytest.mark.asyncio
async def test_rows_count_and_chunks_do_not() -> None:
    gate = make_gate(16, 0.25)
    assert gate.free_bulk() == 12
    take(gate, 1, Lane.BULK)
    first, second = take_chunk(gate), take_chunk(gate)
    with gate.open_chunk(first, 11) as one, gate.open_chunk(second, 5) as other:
        other.stalled = True  # its rows do not ask for places
        for _ in range(11):
            await one.acquire()
        assert (gate.running_rows, gate.rows_left()) == (11, 0)
        assert gate.free_bulk() == 0  # 11 rows and a job
        one.release()
        assert gate.free_bulk() == 1
        other.stalled = False
        assert gate.rows_left() == 5
        assert gate.free_bulk() == 0  # the chunks here have rows that wait
        other.skip(5)
        assert gate.free_bulk() == 1
    assert gate.chunks() == 0
    assert gate.jobs == 3


@pytest.mark.asyncio
async def test_a_chunk_that_is_not_open_yet_takes_all_of_the_room() -> None:
    """It may bring rows for every slot. Whatever becomes of it, the room comes back."""
    gate = make_gate(16)
    for lane in (Lane.BULK, Lane.HIGH):
        chunk = take_chunk(gate, lane)
        assert gate.free_bulk() == 0
        with gate.open_chunk(chunk, 5):
            assert gate.free_bulk() == 11
        gate.settle(chunk)
        assert gate.free_bulk() == 16
        stopped = take_chunk(gate, lane)
        gate.settle(stopped)  # before it was opened
        assert gate.free_bulk() == 16


@pytest.mark.asyncio
async def test_a_chunk_is_taken_off_the_count_of_its_lane() -> None:
    gate = make_gate(16)
    chunk = take_chunk(gate, Lane.HIGH)
    take(gate, 1, Lane.BULK)
    with gate.open_chunk(chunk, 5) as slots:
        for _ in range(5):
            await slots.acquire()
        assert gate.chunks() == 1
        assert gate.free_bulk() == 10  # 5 rows and a job
        for _ in range(9):
            await gate.acquire()
        assert gate.free_bulk() == 1
        await gate.acquire()
        assert gate.free_bulk() == 0


@pytest.mark.parametrize("holds_bulk", [False, True])
@pytest.mark.parametrize("lane", [Lane.NORMAL, Lane.BULK])
def test_chunks_of_any_lane_leave_calls_every_slot(lane: Lane, holds_bulk: bool) -> None:
    gate = make_gate(16, 0.25, holds_bulk=holds_bulk)
    for _ in range(20):
        take_chunk(gate, lane)
    assert (gate.jobs, gate.free()) == (20, 16)
    take(gate, 15)
    assert gate.free() == 1


@pytest.mark.asyncio
async def test_a_chunk_is_claimed_when_no_row_of_its_lane_or_of_a_higher_one_waits() -> None:
    gate = make_gate(16)
    assert gate.chunk_lanes() == len(Lane)
    normal = take_chunk(gate, Lane.NORMAL)
    assert gate.chunk_lanes() == 0  # it is not open, so nothing is known of its rows
    with gate.open_chunk(normal, 2) as slots:
        assert gate.chunk_lanes() == Lane.NORMAL.place
        slots.stalled = True
        assert gate.chunk_lanes() == len(Lane)
        slots.stalled = False
        await slots.acquire()
        with gate.open_chunk(claim(Lane.BULK, CHUNK_ENDPOINT), 1):
            assert gate.chunk_lanes() == Lane.NORMAL.place
            await slots.acquire()
            assert gate.chunk_lanes() == Lane.BULK.place  # the row of bulk waits
        assert gate.chunk_lanes() == len(Lane)
        gate.close()
        assert gate.chunk_lanes() == 0


@pytest.mark.asyncio
async def test_a_row_that_did_not_end_is_left_again() -> None:
    gate = make_gate(16)
    with gate.open_chunk(claim(Lane.LOW, CHUNK_ENDPOINT), 2) as slots:
        assert gate.chunks() == 1
        await slots.acquire()
        await slots.acquire()
        slots.release(1)
        slots.release()
        assert (slots.left, gate.running_rows) == (1, 0)


def test_rows_make_way_for_more_than_what_is_reserved() -> None:
    gate = make_gate(16, 0.25)
    take(gate, 3)
    assert gate.free_bulk() == 12
    take(gate, 1)
    assert gate.free_bulk() == 11  # a place is left for the next interactive job
    take(gate, 12)
    assert gate.free_bulk() == 0


def test_the_consumer_asks_less_often_while_many_rows_wait() -> None:
    gate = make_gate(16)
    short = gate.recheck_s()
    with gate.open_chunk(claim(Lane.BULK, CHUNK_ENDPOINT), 16):
        assert gate.recheck_s() == short
    with gate.open_chunk(claim(Lane.BULK, CHUNK_ENDPOINT), 17):
        assert gate.recheck_s() > short


@pytest.fixture
def nervous() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("nervous")
def test_chunks_come_and_go_while_another_thread_counts_them() -> None:
    gate = make_gate(16)
    over = threading.Event()

    low, bulk = claim(Lane.LOW, CHUNK_ENDPOINT), claim(Lane.BULK, CHUNK_ENDPOINT)

    def work() -> None:
        while not over.is_set():
            with gate.open_chunk(low, 5), gate.open_chunk(bulk, 1):
                pass

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            assert 0 <= gate.chunks() <= 2
            assert gate.chunk_lanes() in {Lane.LOW.place, Lane.BULK.place, len(Lane)}
            assert 0 <= gate.rows_left() <= 6
            assert gate.free_bulk() >= 0
    finally:
        over.set()
        thread.join()


def test_bulk_that_waits_inside_the_engine_takes_no_room_from_calls() -> None:
    gate = make_gate(32, 0.25, holds_bulk=True)
    assert gate.free_bulk() == 24 + 4
    take(gate, 28, Lane.BULK)
    assert (gate.free(), gate.free_bulk()) == (32, 0)
    take(gate, 8)
    assert (gate.free(), gate.free_bulk()) == (24, 0)
    plain = make_gate(32, 0.25)
    take(plain, 24, Lane.BULK)
    assert (plain.free(), plain.free_bulk()) == (8, 0)


@pytest.mark.asyncio
async def test_rows_of_higher_lanes_do_not_wait_inside_the_engine() -> None:
    """There they would be no bulk that makes way for a call."""
    gate = make_gate(32, 0.25, holds_bulk=True)
    for _ in range(24):
        async with asyncio.timeout(20):
            await gate.acquire(Lane.HIGH)
    refused = asyncio.create_task(gate.acquire(Lane.HIGH))
    await asyncio.sleep(0)
    assert not refused.done()
    refused.cancel()
    await asyncio.gather(refused, return_exceptions=True)
    for _ in range(4):  # bulk may
        async with asyncio.timeout(20):
            await gate.acquire(Lane.BULK)
    assert gate.free_bulk() == 0
    gate.release(Lane.HIGH)
    async with asyncio.timeout(20):
        await gate.acquire(Lane.HIGH)
    assert gate.running_rows == 28


@pytest.mark.asyncio
async def test_rows_and_jobs_come_in_at_one_pace() -> None:
    lanes = LaneController(320, 0.25)
    gate = Gate(Calm(), lanes, Pace(240))  # type: ignore[arg-type]
    assert gate.free_bulk() == BURST
    while room := gate.free_bulk():
        take(gate, room, Lane.BULK)
    assert gate.jobs < 100
    assert 0 < gate.recheck_s() < 0.02
    for _ in range(20):  # each waits for the pace, not for another row's end
        async with asyncio.timeout(20):
            await gate.acquire()
    assert gate.running_rows == 20
