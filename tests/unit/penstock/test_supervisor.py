"""The supervisor with trivial children: start, failure, restart, order, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from penstock.server import again, endings
from penstock.server import supervisor as supervisor_module
from penstock.server.child import ChildSpec
from penstock.server.guardian import Guardian
from penstock.server.supervisor import ChildEndedError, StoppedError, Supervisor
from tests.pace import Pace

SLEEP = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
WITH_GRANDCHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition, timeout_s=15.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        await asyncio.sleep(0.01)


@pytest.fixture
def spec(tmp_path):
    def make(name, code, **more):
        return ChildSpec(name, (sys.executable, "-c", code), tmp_path / "logs" / f"{name}.log", **more)

    return make


@pytest.fixture
def lines():
    return []


def printed(spec):
    return spec.log_path.read_text() if spec.log_path.exists() else ""


@pytest.mark.asyncio
async def test_children_run_until_they_are_stopped_rank_by_rank(spec, lines, tmp_path):
    code = (
        "import signal, sys, time; from pathlib import Path\n"
        "def end(*_):\n"
        "    with open(sys.argv[2], 'a') as order: order.write(sys.argv[1] + ' ')\n"
        "    raise SystemExit\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True)\n"
        "while True: time.sleep(600)"
    )
    order = tmp_path / "order"
    supervisor = Supervisor(lines.append)
    specs = []
    for rank, name in enumerate(["flower", "worker", "api", "redis"]):
        made = spec(name, code, stop_rank=rank)
        specs.append(ChildSpec(name, (*made.argv, name, str(order)), made.log_path, stop_rank=rank))
    for one in reversed(specs):
        await supervisor.start(one)
    await until(lambda: all("up" in printed(one) for one in specs))
    pids = supervisor.pids.values()
    await supervisor.stop()
    assert order.read_text().split() == ["flower", "worker", "api", "redis"]
    assert not any(map(alive, pids))


@pytest.mark.asyncio
async def test_a_child_that_ends_during_the_start_is_a_failure_with_its_own_words(spec, lines):
    supervisor = Supervisor(lines.append)
    code = (
        "import sys; print('noise'); print('penstock worker: no such model: x', file=sys.stderr); sys.exit(1)"
    )
    await supervisor.start(spec("api", SLEEP))
    await supervisor.start(spec("worker-2", code))
    with pytest.raises(ChildEndedError) as caught:
        await supervisor.during_start(asyncio.sleep(60))
    await supervisor.stop()
    message = str(caught.value)
    assert message.startswith("worker-2 ended (status 1) before it was ready:\n    no such model: x\n")
    assert message.endswith("worker-2.log")
    assert not alive(supervisor.pids["api"])


@pytest.mark.asyncio
async def test_a_child_that_is_killed_during_the_start_is_started_again(spec, lines):
    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("worker-1", SLEEP))
    first = supervisor.pids["worker-1"]
    assert supervisor.awaited(["worker-1"]) == {first}
    os.kill(first, signal.SIGKILL)

    async def successor():
        await until(lambda: supervisor.exit_status("worker-1") is not None)
        assert supervisor.awaited(["worker-1"]) == {0}  # nobody's: it is waited for
        await until(lambda: supervisor.pids["worker-1"] != first)

    await supervisor.during_start(successor())
    assert supervisor.awaited(["worker-1"]) == {supervisor.pids["worker-1"]}
    assert lines[0].startswith("worker-1 was killed by SIGKILL; starting it again in 1 s (its log: ")
    await supervisor.stop()
    assert not alive(supervisor.pids["worker-1"])


@pytest.mark.asyncio
async def test_a_child_that_is_killed_again_and_again_ends_the_start_with_its_words(spec, lines, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(supervisor_module, "_STEADY_AFTER_S", 0.0)  # a start has no steady state
    supervisor = Supervisor(lines.append)
    code = "import os; print('loading', flush=True); os.kill(os.getpid(), 9)"
    await supervisor.start(spec("worker-1", code))
    with pytest.raises(ChildEndedError) as caught:
        await supervisor.during_start(asyncio.sleep(60))
    await supervisor.stop()
    message = str(caught.value)
    assert message.startswith(
        "worker-1 was killed by SIGKILL before it was ready, after 3 restarts:\n    loading\n"
    )
    assert len(lines) == 3


@pytest.mark.asyncio
async def test_a_child_that_was_ready_may_end_during_the_start(spec, lines):
    supervisor = Supervisor(lines.append)
    go = "import sys, signal; signal.signal(15, lambda *_: sys.exit(1)); print('up', flush=True); signal.pause()"
    one = spec("worker-1", go, may_finish=True)
    await supervisor.start(one)
    await until(lambda: "up" in printed(one))
    first = supervisor.pids["worker-1"]
    supervisor.mark_ready({first})
    os.kill(first, signal.SIGTERM)  # ends with status 1, as after its engine's death
    await supervisor.during_start(until(lambda: supervisor.pids["worker-1"] != first))
    assert lines[0].startswith("worker-1 ended (status 1); starting it again in 1 s")
    await supervisor.stop()


@pytest.mark.asyncio
async def test_a_child_that_was_drained_during_the_start_is_not_waited_for(spec, lines):
    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("api", SLEEP))
    go = "import sys, signal; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); signal.pause()"
    one = spec("worker-1", go, may_finish=True)
    await supervisor.start(one)
    await until(lambda: "up" in printed(one))
    supervisor.mark_ready(supervisor.awaited(["worker-1"]))
    os.kill(supervisor.pids["worker-1"], signal.SIGTERM)
    await supervisor.during_start(until(lambda: not supervisor.awaited(["worker-1"])))
    assert lines == ["worker-1 has finished (status 0) and is not started again"]
    await supervisor.stop()


@pytest.mark.asyncio
async def test_a_stop_during_the_start_ends_it(spec, lines):
    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("api", SLEEP))
    asyncio.get_running_loop().call_later(0.1, supervisor.request_stop)
    with pytest.raises(StoppedError):
        await supervisor.during_start(asyncio.sleep(60))
    await supervisor.stop()
    assert not alive(supervisor.pids["api"])


@pytest.mark.asyncio
async def test_a_child_that_ends_later_is_started_again(spec, lines):
    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("worker", SLEEP))
    running = asyncio.create_task(supervisor.supervise())
    await asyncio.sleep(0)
    first = supervisor.pids["worker"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.pids["worker"] != first)
    assert alive(supervisor.pids["worker"])
    assert lines[0].startswith("worker was killed by SIGKILL; starting it again in 1 s (its log: ")
    supervisor.request_stop()
    await running
    await supervisor.stop()
    assert not alive(supervisor.pids["worker"])


@pytest.mark.asyncio
async def test_of_a_child_that_is_started_again_its_time_is_told_and_that_it_serves(spec, lines, monkeypatch):
    monkeypatch.setattr(again, "_TELL_EVERY_S", 0.02)
    serves = asyncio.Event()
    asked = []

    async def serving(name, pid):
        asked.append((name, pid))
        await serves.wait()

    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("worker", SLEEP))
    running = asyncio.create_task(supervisor.supervise(serving))
    await asyncio.sleep(0)
    first = supervisor.pids["worker"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: any(re.fullmatch(r"worker is loading again \(\d+ s\)", line) for line in lines[1:]))
    serves.set()
    await until(lambda: re.fullmatch(r"worker serves again \(\d+ s\)", lines[-1]))
    assert asked == [("worker", supervisor.pids["worker"])]
    assert supervisor.pids["worker"] != first
    supervisor.request_stop()
    await running
    await supervisor.stop()


@pytest.mark.asyncio
async def test_a_child_that_ends_at_the_very_end_of_the_start_is_started_again(spec, lines):
    supervisor = Supervisor(lines.append)
    # A stray grandchild keeps the output open, so that the watcher waits for last words while the start ends.
    grandchild = "import subprocess, sys; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
    flower = spec("flower", f"{grandchild}; sys.exit(1)")
    await supervisor.start(flower)
    first = supervisor.pids["flower"]
    await supervisor.during_start(until(lambda: not alive(first)))
    running = asyncio.create_task(supervisor.supervise())
    await until(lambda: lines)
    assert lines[0].startswith("flower ended (status 1); starting it again in 1 s")
    supervisor.request_stop()
    await running
    await supervisor.stop()
    for pid in printed(flower).split():
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.asyncio
async def test_a_child_that_ended_for_good_before_the_supervision_ends_it(spec, lines):
    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("flower", "import sys; print('no', flush=True); sys.exit(1)"))
    await until(lambda: supervisor.exit_status("flower") == 1)
    await asyncio.wait([supervisor._children["flower"].watcher])
    with pytest.raises(ChildEndedError, match="flower ended"):
        await supervisor.supervise()
    await supervisor.stop()


@pytest.mark.asyncio
async def test_a_child_that_has_finished_is_not_started_again(spec, lines):
    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("api", SLEEP))
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); time.sleep(600)"
    worker = spec("worker", code, may_finish=True)
    await supervisor.start(worker)
    await until(lambda: "up" in printed(worker))
    running = asyncio.create_task(supervisor.supervise())
    await asyncio.sleep(0)
    os.kill(supervisor.pids["worker"], signal.SIGTERM)
    await until(lambda: lines)
    assert lines == ["worker has finished (status 0) and is not started again"]
    assert supervisor.exit_status("worker") == 0
    assert alive(supervisor.pids["api"])
    supervisor.request_stop()
    await running
    await supervisor.stop()
    assert len(lines) == 1


@pytest.mark.asyncio
async def test_whoever_asked_is_told_of_each_end(spec, lines):
    ended = []

    async def on_end(pid):
        ended.append((pid, alive(pid)))

    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("worker", SLEEP, on_end=on_end))
    running = asyncio.create_task(supervisor.supervise())
    await asyncio.sleep(0)
    first = supervisor.pids["worker"]
    os.kill(first, signal.SIGKILL)
    await until(lambda: ended)
    assert supervisor.pids["worker"] == first  # told at once, not after the back-off
    await until(lambda: supervisor.pids["worker"] != first)
    second = supervisor.pids["worker"]
    supervisor.request_stop()
    await running
    await supervisor.stop()
    assert ended == [(first, False), (second, False)]


@pytest.mark.asyncio
async def test_what_is_to_be_done_about_an_end_may_fail_or_hang(spec, lines, monkeypatch):
    monkeypatch.setattr(endings, "_LAST_CALLS_S", 0.2)
    given_up = []

    async def fails(pid):
        raise OSError("no route to redis")

    async def hangs(pid):
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            given_up.append(pid)
            raise

    supervisor = Supervisor(lines.append)
    await supervisor.start(spec("worker-1", SLEEP, on_end=fails))
    await supervisor.start(spec("worker-2", SLEEP, on_end=hangs))
    pace = Pace()
    await supervisor.stop()
    assert pace.took_s >= 0.2
    assert pace.allows(5), pace
    assert given_up == [supervisor.pids["worker-2"]]
    assert lines == ["worker-1 has ended; what was to be done about that failed: no route to redis"]


@pytest.mark.asyncio
async def test_the_back_off_doubles_and_a_stop_does_not_wait_for_it(spec, lines):
    supervisor = Supervisor(lines.append)
    running = asyncio.create_task(supervisor.supervise())
    await asyncio.sleep(0)
    await supervisor.start(spec("worker", "raise SystemExit(3)"))
    await until(lambda: sum("starting it again" in line for line in lines) == 2)
    assert [line.partition(" (its log")[0] for line in lines] == [
        "worker ended (status 3); starting it again in 1 s",
        "worker ended (status 3); starting it again in 2 s",
    ]
    supervisor.request_stop()
    await running
    pace = Pace()
    await supervisor.stop()
    assert pace.allows(1), pace


@pytest.mark.asyncio
async def test_a_deaf_child_is_killed_when_its_time_is_up(spec, lines):
    supervisor = Supervisor(lines.append)
    deaf = spec("worker", DEAF, stop_timeout_s=0.3)
    await supervisor.start(deaf)
    await until(lambda: "deaf" in printed(deaf))
    await supervisor.stop()
    assert not alive(supervisor.pids["worker"])
    assert lines == ["worker did not stop within 0.3 s; killed"]


@pytest.mark.asyncio
async def test_a_second_stop_hurries(spec, lines):
    supervisor = Supervisor(lines.append)
    deaf = spec("worker", DEAF, stop_timeout_s=60)
    await supervisor.start(deaf)
    await until(lambda: "deaf" in printed(deaf))
    supervisor.request_stop()
    asyncio.get_running_loop().call_later(0.2, supervisor.request_stop)
    pace = Pace()
    await supervisor.stop()
    assert pace.allows(5), pace
    assert not alive(supervisor.pids["worker"])


@pytest.mark.asyncio
async def test_what_a_child_started_goes_with_it(spec, lines):
    supervisor = Supervisor(lines.append)
    parent = spec("worker", WITH_GRANDCHILD)
    await supervisor.start(parent)
    await until(lambda: printed(parent).endswith("\n"))
    grandchild = int(printed(parent))
    assert alive(grandchild)
    await supervisor.stop()
    await until(lambda: not alive(grandchild))


UP = """
import asyncio, sys
from pathlib import Path
from penstock.server.child import ChildSpec
from penstock.server.supervisor import Supervisor

async def main():
    supervisor = Supervisor(print)
    await supervisor.start(ChildSpec("worker", (sys.executable, "-c", sys.argv[1]), Path(sys.argv[2])))
    print(supervisor.pids["worker"], flush=True)
    await supervisor.supervise()

asyncio.run(main())
"""


@pytest.mark.asyncio
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_killed_supervisor_leaves_no_process_behind(tmp_path):
    log = tmp_path / "worker.log"
    with subprocess.Popen(
        [sys.executable, "-c", UP, WITH_GRANDCHILD, str(log)], stdout=subprocess.PIPE, text=True
    ) as up:
        child = int(up.stdout.readline())
        await until(lambda: log.read_text().endswith("\n"))
        grandchild = int(log.read_text())
        assert alive(child)
        assert alive(grandchild)
        up.send_signal(signal.SIGKILL)
    await until(lambda: not alive(child) and not alive(grandchild))


def test_the_guardian_spares_what_it_was_told_to_forget():
    guardian = Guardian()
    groups = [subprocess.Popen(["sleep", "600"], process_group=0) for _ in range(3)]
    try:
        for group in groups:
            guardian.add(group.pid)
        guardian.remove(groups[1].pid)
        guardian.remove(groups[1].pid)
        guardian.close()
        assert groups[0].wait(30) == -signal.SIGKILL
        assert groups[2].wait(30) == -signal.SIGKILL
        assert groups[1].poll() is None
    finally:
        for group in groups:
            group.kill()
            group.wait()


@pytest.mark.asyncio
async def test_a_child_on_trial_that_ends_by_itself_stays_away_with_its_last_words(spec, lines):
    supervisor = Supervisor(lines.append)
    other = spec("api", SLEEP)
    await supervisor.start(other)
    running = asyncio.create_task(supervisor.supervise())
    await asyncio.sleep(0)
    failing = spec("worker-v2", "print('penstock worker: no such model'); raise SystemExit(1)", on_trial=True)
    await supervisor.start(failing)
    await until(lambda: supervisor.failure("worker-v2"))
    assert "no such model" in supervisor.failure("worker-v2")
    assert not [line for line in lines if "starting it again" in line]
    await supervisor.end("worker-v2")
    assert supervisor.pids.keys() == {"api"}
    supervisor.request_stop()
    await running
    await supervisor.stop()


@pytest.mark.asyncio
async def test_a_child_that_is_ended_for_good_is_not_started_again(spec, lines):
    supervisor = Supervisor(lines.append)
    for name in ("api", "worker"):
        await supervisor.start(spec(name, SLEEP))
    running = asyncio.create_task(supervisor.supervise())
    await asyncio.sleep(0)
    pid = supervisor.pids["worker"]
    await supervisor.end("worker")
    assert not alive(pid)
    assert supervisor.pids.keys() == {"api"}
    assert not [line for line in lines if "starting it again" in line]
    # Nor one that waits for its next life.
    await supervisor.start(spec("broken", "raise SystemExit(1)"))
    await until(lambda: any("broken ended" in line for line in lines))
    await supervisor.end("broken")
    assert supervisor.pids.keys() == {"api"}
    supervisor.request_stop()
    await running
    await supervisor.stop()
