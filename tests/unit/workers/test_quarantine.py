"""Turns of suspects: one at a time, the higher lane first, and a turn that nobody takes is passed on."""

from __future__ import annotations

import asyncio

import pytest

from jobs.lanes import Lane
from tests.support import eventually
from tests.unit.workers.test_gate import make_gate, take
from workers.attempts.quarantine import Quarantine

pytestmark = pytest.mark.asyncio


class Scene:
    """Suspects that stay until they are told to go."""

    def __init__(self, window_s: float = 60.0, slots: int = 8) -> None:
        self.gate = make_gate(slots)
        self.quarantine = Quarantine(self.gate, window_s)
        self.inside: list[str] = []
        self.go: dict[str, asyncio.Event] = {}

    def add(self, name: str, lane: Lane = Lane.NORMAL, *, bulk: bool = False) -> asyncio.Task[None]:
        self.go[name] = asyncio.Event()
        take(self.gate, 1, bulk=bulk)
        return asyncio.create_task(self._suspect(name, lane, bulk=bulk))

    async def _suspect(self, name: str, lane: Lane, *, bulk: bool) -> None:
        try:
            async with self.quarantine.alone(lane, bulk=bulk):
                self.inside.append(name)
                await self.go[name].wait()
        finally:
            if name in self.inside:
                self.inside.remove(name)
            self.gate.settle_message(bulk=bulk)


async def test_one_at_a_time_and_the_higher_lane_first() -> None:
    scene = Scene()
    tasks = [scene.add("a"), scene.add("b", Lane.LOW), scene.add("c", Lane.REALTIME)]
    await eventually(lambda: scene.inside == ["a"])
    assert scene.gate.parked == 2
    scene.go["a"].set()
    await eventually(lambda: scene.inside == ["c"])
    scene.go["c"].set()
    await eventually(lambda: scene.inside == ["b"])
    scene.go["b"].set()
    await asyncio.gather(*tasks)
    assert scene.gate.parked == 0


async def test_a_suspect_that_waits_is_taken_off_the_count_that_has_its_message() -> None:
    """A job of the lane bulk that came from a worker's own queue counts as interactive."""
    scene = Scene(slots=16)
    tasks = [scene.add("a", bulk=True), scene.add("b", Lane.BULK)]
    await eventually(lambda: scene.inside == ["a"] and scene.gate.parked == 1)
    assert scene.gate.free_messages() == 15  # "a" is a bulk job on the engine
    for event in scene.go.values():
        event.set()
    await asyncio.gather(*tasks)


async def test_one_that_lives_long_lets_the_next_in() -> None:
    scene = Scene(window_s=0.05)
    tasks = [scene.add(name) for name in "abc"]
    await eventually(lambda: scene.inside == ["a", "b", "c"])
    for event in scene.go.values():
        event.set()
    await asyncio.gather(*tasks)


async def test_a_turn_is_lost_by_no_cancellation() -> None:
    """Not of one that waits, nor of one that has its turn, nor of one that waits for a slot."""
    scene = Scene(slots=2)
    first, second, third, fourth = (scene.add(name) for name in "abcd")
    await eventually(lambda: scene.inside == ["a"])
    second.cancel()
    scene.go["a"].set()
    await first
    third.cancel()  # it has its turn
    await eventually(lambda: scene.inside == ["d"])
    take(scene.gate, 2, bulk=False)
    fifth, sixth = scene.add("e"), scene.add("f")
    scene.go["d"].set()
    await fourth
    await asyncio.sleep(0.1)  # "e" has its turn and no slot
    assert scene.inside == []
    fifth.cancel()
    scene.gate.settle_message(bulk=False)
    await eventually(lambda: scene.inside == ["f"])
    scene.go["f"].set()
    await sixth
    await asyncio.gather(second, third, fifth, return_exceptions=True)
    assert scene.inside == []
