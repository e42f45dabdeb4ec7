from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.support import wait_until
from workers.engines.vllm.leash import Leash

CHILD = """
import subprocess, sys, time
from workers.engines.vllm.leash import Leash
leash = Leash()
with leash.hold_new_children():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(leash.pid, child.pid, flush=True)
sys.stdin.readline()
leash.release()
leash.release()
child.kill()
child.wait()
"""


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_children_never_outlive_the_worker(how: signal.Signals | None) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    with worker.stdin, worker.stdout:
        leash, child = (int(pid) for pid in worker.stdout.readline().split())
        assert not gone(child)
        if how is None:
            worker.stdin.write(b"\n")
            worker.stdin.flush()
            assert worker.wait(timeout=20) == 0
        else:
            worker.send_signal(how)
            worker.wait(timeout=20)
        wait_until(lambda: gone(child) and gone(leash))


def test_the_cpu_time_of_held_processes_and_of_theirs_is_told() -> None:
    busy = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    leash = Leash()
    with subprocess.Popen([sys.executable, "-c", busy], start_new_session=True) as parent:
        try:
            leash.hold(parent.pid)
            wait_until(lambda: leash.cpu_s() >= 2)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    assert leash.cpu_s() == 0
    leash.release()
