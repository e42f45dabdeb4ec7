"""The way back from the engine's loop to Celery: few rings, and turns that stay short."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable

import msgspec
import pytest

from broker.celery.claimer import Claimer, Room
from broker.claims import Claim
from broker.db.calls.attempts import Claimed, ClaimedJob
from broker.db.keys import Keys
from broker.records import Facts
from broker.sealing import Sealer
from jobs.lanes import Lane
from jobs.states import JobState
from tests.support import eventually, new_id
from tests.unit.workers.test_gate import make_gate
from workers.admission.gate import Gate
from workers.attempts.attempt import Outcome
from workers.attempts.quarantine import Quarantine
from workers.celery.bell import Bell
from workers.celery.pool import LoopPool, Result, loop_pool

pytestmark = pytest.mark.asyncio

FACTS = msgspec.json.encode(Facts(endpoint="/v1/completions", model="m", max_attempts=3))


async def test_a_bell_rings_at_once_and_then_once_for_all_who_ask() -> None:
    rings: list[int] = []
    bell = Bell(lambda: rings.append(1))
    bell.ring(60.0)
    assert len(rings) == 1
    for _ in range(100):
        bell.ring(0.3)
    assert len(rings) == 1
    await eventually(lambda: len(rings) == 2)
    await asyncio.sleep(0)
    assert len(rings) == 2


async def test_who_is_in_a_hurry_rings_for_those_who_are_not() -> None:
    rings: list[int] = []
    bell = Bell(lambda: rings.append(1))
    bell.ring(0.0, delay_s=60.0)
    assert not rings
    bell.ring(0.0)
    assert len(rings) == 1
    bell.ring(0.0, delay_s=0.01)  # the first delay is forgotten
    await eventually(lambda: len(rings) == 2)


class Scene:
    """A pool, and jobs that end when they are told to."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.told = gate, list[object]()
        self.claimer = Claimer(
            "w",
            keys=Keys("n"),
            pool="p",
            message=lambda job_id, queue: {},
            retention_ms=1000,
            sealer=Sealer(None),
            room=lambda: Room(1000, 1000, 1, 0.02),
            give_back=lambda ids: None,
        )
        self._ends: list[Callable[[Result], None]] = []
        made = loop_pool(
            lambda claim, asked_ns, done: self._ends.append(done),
            self.claimer,
            gate,
            Quarantine(60.0),
            lambda: None,
        )
        self.pool: LoopPool = made(1000)
        self.pool.on_start()

    def start(self, count: int, lane: Lane = Lane.NORMAL) -> list[Claim]:
        """Have Redis give jobs, and Celery deliver them."""
        self.claimer.command()
        jobs = tuple(
            ClaimedJob(id=new_id(), attempt=1, lane=lane, tenant="t", waited_ms=0, age_ms=0)
            for _ in range(count)
        )
        claims = self.claimer.receive([msgspec.msgpack.encode(Claimed(jobs=jobs)), *[FACTS, b"{}"] * count])
        for claim in claims:
            self.pool.on_apply(None, ("penstock.run", claim.id), callback=self.told.append)
        return claims

    def end(self, count: int) -> None:
        for _ in range(count):
            self._ends.pop()(Outcome(JobState.SUCCEEDED))

    @property
    def rung(self) -> bool:
        return bool(select.select([self.pool._read_end], [], [], 0)[0])

    def close(self) -> None:
        os.close(self.pool._read_end)
        os.close(self.pool._write_end)


async def test_many_outcomes_are_settled_in_several_short_turns() -> None:
    scene = Scene(make_gate(500))
    scene.start(100)
    scene.end(100)
    turns = 0
    while len(scene.told) < 100:
        assert scene.rung  # until all are told, Celery's loop comes back at once
        before = len(scene.told)
        scene.pool._rung()
        turns += 1
        assert 0 < len(scene.told) - before <= 16
    assert turns > 5
    assert scene.gate.jobs == 0
    scene.close()


async def test_bulk_rings_later_unless_its_end_makes_the_only_room() -> None:
    """Celery's thread settles before it asks for more bulk, so it need not be woken for that."""
    scene = Scene(make_gate(4, 0.25))
    scene.start(4, Lane.BULK)
    scene.end(1)
    assert scene.rung
    scene.pool._rung()
    scene.end(2)
    assert not scene.rung
    scene.pool.settle()
    assert len(scene.told) == 3
    scene.end(1)
    await eventually(lambda: scene.rung)  # in case nobody asks
    scene.close()


async def test_the_first_outcome_of_a_call_rings_at_once() -> None:
    scene = Scene(make_gate(32, 0.25, holds_bulk=True))
    scene.start(2)
    scene.end(1)
    assert scene.rung
    scene.close()
