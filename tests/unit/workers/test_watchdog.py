"""The watchdog over a real loop in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.support import wait_until
from workers.process.loop import EngineLoop
from workers.process.watchdog import Watchdog


@pytest.fixture
def loop() -> Iterator[EngineLoop]:
    loop = EngineLoop()
    loop.start()
    yield loop
    loop.stop()


def hang(over: threading.Event) -> None:
    over.wait(60)


def test_a_loop_that_hangs_is_named_with_the_place_where_it_hangs(loop: EngineLoop) -> None:
    said: list[str] = []
    over = threading.Event()
    watchdog = Watchdog(loop, 1.0, said.append)
    with capture_logs() as logs:
        watchdog.start()
        loop.post(hang, over)
        wait_until(lambda: said)
        over.set()
        watchdog.stop()
    assert said == ["its event loop has not turned for 1 s"]
    (event,) = [one for one in logs if one["event"] == "loop_stalled"]
    assert "in hang" in event["stack"]


def test_a_loop_that_is_only_slow_is_left_alone(loop: EngineLoop) -> None:
    said: list[str] = []
    watchdog = Watchdog(loop, 2.0, said.append)
    watchdog.start()
    done = threading.Event()

    def slow(times: int) -> None:
        time.sleep(0.3)
        loop.post(slow if times else done.set, *([times - 1] if times else []))

    loop.post(slow, 8)
    assert done.wait(30)
    watchdog.stop()
    assert said == []
