"""How a coordinator process hears signals, and ends by force."""

from __future__ import annotations

import subprocess
import sys

from tests.unread import ROOT, exit_status

TWICE = """
import asyncio, signal, threading
from coordinator.main import end_on_signals

class Interrupted(threading.Timer):
    \"\"\"A second signal comes while the first one's handler starts the timer.\"\"\"
    seconds = [signal.SIGTERM]

    def start(self):
        if self.seconds:
            signal.raise_signal(self.seconds.pop())
        super().start()

threading.Timer = Interrupted
loop = asyncio.new_event_loop()
end_on_signals(loop, lambda: None)
signal.raise_signal(signal.SIGTERM)
loop.close()
signal.raise_signal(signal.SIGTERM)
print("goes on")
"""

HUNG = """
import asyncio, signal, time
from coordinator import main
from monitoring.logging import configure_logging
from tests.unread import fill_stderr

configure_logging()
main.END_S = 0.2
main.end_on_signals(asyncio.new_event_loop(), lambda: None)
fill_stderr()
signal.raise_signal(signal.SIGTERM)
time.sleep(1000)
"""


def test_signals_at_once_and_after_the_end_of_the_loop_are_no_errors() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "goes on\n", "")


def test_it_ends_by_force_though_nobody_reads_its_log() -> None:
    assert exit_status(HUNG) == 1
