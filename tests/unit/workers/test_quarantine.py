"""Suspects: one at a time is claimed, and the next one's turn comes whatever became of the one before."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from jobs.lanes import Lane
from tests.support import eventually
from tests.unit.workers.test_gate import claim, make_gate, take
from workers.attempts.quarantine import Quarantine
from workers.celery.pool import room_for

pytestmark = pytest.mark.asyncio


async def test_one_at_a_time() -> None:
    quarantine = Quarantine(60.0)
    first, second, innocent = claim(kills=1), claim(kills=1), claim()
    quarantine.enter(innocent)
    assert quarantine.room == 1
    quarantine.enter(first)
    assert quarantine.room == 0
    quarantine.leave(innocent)
    assert quarantine.room == 0
    with quarantine.window(first):
        await asyncio.sleep(0)
        assert quarantine.room == 0
    quarantine.leave(first)
    assert quarantine.room == 1
    quarantine.enter(second)
    quarantine.leave(first)  # said twice
    assert quarantine.room == 0


async def test_one_that_lives_long_lets_the_next_in() -> None:
    quarantine = Quarantine(0.05)
    first, second = claim(kills=1), claim(kills=1)
    quarantine.enter(first)
    with quarantine.window(first):
        await eventually(lambda: quarantine.room == 1)
        quarantine.enter(second)
        quarantine.leave(first)  # its end
        assert quarantine.room == 0


async def test_an_attempt_that_is_over_frees_no_later_one_of_its_job() -> None:
    quarantine = Quarantine(60.0)
    before = claim(kills=1)
    again = replace(before, attempt=2)
    quarantine.enter(before)
    quarantine.enter(again)
    quarantine.leave(before)
    assert quarantine.room == 0


async def test_a_worker_asks_for_what_it_has_room_for() -> None:
    gate, quarantine = make_gate(8, 0.25), Quarantine(60.0)
    room = room_for(gate, quarantine)
    assert (room.jobs, room.bulk, room.suspects) == (8, 6, 1)
    take(gate, 7)
    suspect = claim(Lane.BULK, kills=1)
    quarantine.enter(suspect)
    room = room_for(gate, quarantine)
    assert (room.jobs, room.bulk, room.suspects) == (1, 0, 0)
    assert room_for(make_gate(8, 0.25), quarantine).more_than(room)
    assert not room.more_than(room_for(make_gate(8, 0.25), quarantine))
