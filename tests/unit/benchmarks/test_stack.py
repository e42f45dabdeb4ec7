"""`benchmarks/_stack.py`: what a benchmark starts ends with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support import wait_until

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from _stack import running
with running([sys.executable, "-c", "import time; time.sleep(600)"]) as started:
    print(started.process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_benchmark_that_is_stopped_by_a_signal_leaves_no_stack(signum: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(BENCHMARKS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as benchmark:
        assert benchmark.stdout is not None
        stack = int(benchmark.stdout.readline())
        assert psutil.pid_exists(stack)
        benchmark.send_signal(signum)
    wait_until(lambda: not psutil.pid_exists(stack) or psutil.Process(stack).status() == psutil.STATUS_ZOMBIE)
