"""A process whose log is a pipe that nobody reads, and that is full: it ends all the same, though each line hangs."""

from __future__ import annotations

import pytest

from tests.unread import exit_status

WORKER = """
import os, re, signal, time
from monitoring.logging import configure_logging
from tests.unread import fill_stderr
from workers.process import watchdog
from workers.process.ending import Bounds, Ending
from workers.process.loop import EngineLoop
from workers.process.signals import drain_on_signals

async def close():
    pass

def hang():
    time.sleep(1000)

def wedge():
    re.match("(a|a)*$", "a" * 64 + "b")  # it keeps the interpreter's lock

configure_logging()
watchdog._LOCKED_S = 0.5
loop = EngineLoop()
quick = Bounds(0.1, 0.1, 0.2, 0.3)
ending = Ending(loop, 0.0, announce=lambda: None, release=lambda: None, close=close, bounds=quick)
loop.start()
fill_stderr()
"""

CASES = {
    "stalled": "watchdog.Watchdog(loop, 1.0, ending.die).start(); loop.post(hang)",
    "wedged": "watchdog.Watchdog(loop, 1.0, ending.die).start(); time.sleep(1.0); loop.post(wedge)",
    "dead engine": "loop.post(ending.die, 'the engine died')",
    "signalled": "loop.post(hang); drain_on_signals(ending); os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("case", CASES)
def test_a_worker_ends_though_nobody_reads_its_log(case: str) -> None:
    status = exit_status(f"{WORKER}\n{CASES[case]}\ntime.sleep(1000)")
    assert status == (0 if case == "signalled" else 1)
