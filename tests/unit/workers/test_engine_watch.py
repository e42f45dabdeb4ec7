"""When an engine counts as hung."""

from __future__ import annotations

import pytest

from workers.engines.base import EngineDeadError
from workers.process.engine_watch import EngineWatch


class Scene:
    """An engine that says what the test wishes, and a clock."""

    def __init__(self, stall_s: float = 10.0) -> None:
        self.now_s, self.steps = 100.0, 0.0
        self.busy = True
        self.watch = EngineWatch(self, stall_s, lambda _: None, clock=lambda: self.now_s)  # type: ignore[arg-type]

    def progress(self) -> float | None:
        return self.steps if self.busy else None

    def look(self, after_s: float = 3.0) -> None:
        self.now_s += after_s
        self.watch.look(at_most_s=6.0)


def test_an_engine_with_requests_and_no_step_is_dead() -> None:
    scene = Scene()
    for _ in range(4):
        scene.look()
    with pytest.raises(EngineDeadError, match="no step for 12 s"):
        scene.look()


def test_a_long_prompt_takes_steps_and_is_no_stall() -> None:
    scene = Scene()
    for _ in range(50):
        scene.steps += 1
        for _ in range(3):
            scene.look()


def test_an_engine_without_requests_may_rest() -> None:
    scene = Scene()
    for _ in range(3):
        scene.look()
    scene.busy = False
    for _ in range(50):
        scene.look()
    scene.busy = True
    for _ in range(4):
        scene.look()


def test_a_worker_that_stood_still_itself_blames_nobody() -> None:
    scene = Scene()
    scene.look()
    scene.look(after_s=3600.0)
    scene.steps += 1
    scene.look()


def test_zero_never_stalls() -> None:
    scene = Scene(stall_s=0.0)
    for _ in range(1000):
        scene.look()
