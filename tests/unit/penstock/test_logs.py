"""The children's logs: bounded while they run, and whole whatever becomes of the child."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from penstock.server.child import ChildSpec
from penstock.server.logs import LogFile, LogLimits, Recorder, follow
from penstock.server.supervisor import Supervisor
from tests.support import eventually

SMALL = LogLimits(max_bytes=1000, backups=2)


def kept(path):
    """Everything that is kept, oldest first."""
    files = [path.with_name(f"{path.name}.{n}") for n in (3, 2, 1)] + [path]
    return b"".join(file.read_bytes() for file in files if file.exists())


def names(folder):
    return sorted(one.name for one in folder.iterdir())


def test_a_full_file_is_set_aside_between_two_lines(tmp_path):
    log = LogFile(tmp_path / "a.log", SMALL)
    lines = [b"%03d %s\n" % (n, b"x" * 95) for n in range(25)]
    for line in lines:
        log.write(line[:50])
        log.write(line[50:])
    log.close()
    assert names(tmp_path) == ["a.log", "a.log.1", "a.log.2"]
    for file in tmp_path.iterdir():
        assert file.stat().st_size <= SMALL.max_bytes + 100
        assert file.read_bytes().endswith(b"\n")
        assert file.read_bytes()[:3].isdigit()
    assert kept(tmp_path / "a.log") == b"".join(
        lines
    )  # three files were enough: nothing is lost between them


def test_older_files_are_deleted(tmp_path):
    log = LogFile(tmp_path / "a.log", SMALL)
    for n in range(100):
        log.write(b"%03d %s\n" % (n, b"x" * 95))
    log.close()
    assert names(tmp_path) == ["a.log", "a.log.1", "a.log.2"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3 * SMALL.max_bytes
    assert kept(tmp_path / "a.log").endswith(b"099 " + b"x" * 95 + b"\n")


def test_without_backups_one_file_is_begun_anew(tmp_path):
    log = LogFile(tmp_path / "a.log", LogLimits(max_bytes=1000, backups=0))
    for n in range(100):
        log.write(b"%03d %s\n" % (n, b"x" * 95))
    log.close()
    assert names(tmp_path) == ["a.log"]
    assert (tmp_path / "a.log").stat().st_size <= 1000


@pytest.mark.parametrize("backups", [0, 2])
def test_a_file_that_somebody_deleted_is_begun_anew(tmp_path, backups):
    log = LogFile(tmp_path / "a.log", LogLimits(max_bytes=1000, backups=backups))
    log.write(b"x" * 900 + b"\n")
    log.path.unlink()
    log.write(b"y" * 900 + b"\n")
    log.close()
    assert log.path.read_bytes() == b"y" * 900 + b"\n"


def test_output_without_a_lines_end_is_bounded_too(tmp_path):
    log = LogFile(tmp_path / "a.log", SMALL)
    for _ in range(200):
        log.write(b"x" * 100)
    log.close()
    assert names(tmp_path) == ["a.log", "a.log.1", "a.log.2"]
    assert all(file.stat().st_size <= 2 * SMALL.max_bytes + 100 for file in tmp_path.iterdir())


def test_what_is_there_is_kept_and_counts(tmp_path):
    (tmp_path / "a.log").write_bytes(b"old\n" * 249)
    log = LogFile(tmp_path / "a.log", SMALL)
    log.write(b"new\n")
    assert names(tmp_path) == ["a.log"]
    log.write(b"newer\n")
    log.close()
    assert (tmp_path / "a.log").read_bytes() == b"newer\n"
    assert kept(tmp_path / "a.log") == b"old\n" * 249 + b"new\nnewer\n"


COUNT = """
import sys
for n in range(int(sys.argv[1])):
    sys.stdout.write("%07d\\n" % n); sys.stdout.flush()
"""
KILLED = COUNT + "import os; os.kill(os.getpid(), 9)"


@pytest.mark.asyncio
async def test_a_log_is_bounded_while_its_process_runs_and_a_killed_one_loses_no_line(tmp_path):
    path = tmp_path / "logs" / "worker.log"
    supervisor = Supervisor(print, LogLimits(max_bytes=100_000, backups=3))
    rows = 40_000
    await supervisor.start(ChildSpec("worker", (sys.executable, "-c", KILLED, str(rows)), path))
    await eventually(lambda: supervisor.exit_status("worker") == -signal.SIGKILL, 60)
    numbers = [int(line) for line in kept(path).split()]
    assert numbers == list(range(numbers[0], rows))  # to the last one, without a gap
    assert len(numbers) > 2 * 100_000 / 8
    assert names(path.parent) == ["worker.log", "worker.log.1", "worker.log.2", "worker.log.3"]
    await supervisor.stop()


@pytest.mark.asyncio
async def test_both_lives_of_a_child_are_in_one_log(tmp_path):
    path = tmp_path / "worker.log"
    supervisor = Supervisor(lambda _: None)
    code = "import os, time; print('life', os.getpid(), flush=True); time.sleep(600)"
    await supervisor.start(ChildSpec("worker", (sys.executable, "-c", code), path))
    first = supervisor.pids["worker"]
    await eventually(lambda: path.exists() and str(first) in path.read_text())
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: supervisor.pids["worker"] != first)
    second = supervisor.pids["worker"]
    await eventually(lambda: str(second) in path.read_text())
    assert path.read_text() == f"life {first}\nlife {second}\n"
    await supervisor.stop()


def record(log, complaints, *argv, **options):
    recorder = Recorder(log, complaints.append)
    process = subprocess.Popen(argv, stdout=recorder.write_fd, stderr=recorder.write_fd, **options)
    recorder.start()
    return process, recorder


def test_a_log_that_cannot_be_written_stops_no_process(tmp_path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    complaints: list[str] = []
    log = LogFile(tmp_path / "logs" / "a.log", SMALL)
    process, recorder = record(log, complaints, sys.executable, "-c", COUNT, "300000")
    assert process.wait(60) == 0
    recorder.join(10)
    assert recorder.done
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{log.path} cannot be written: ")
    assert recorder.last_words("penstock worker:")[-1] == "0299999"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("a\nb\n\nc\nd\ne\nf\n", ["b", "c", "d", "e", "f"]),
        ("a\npenstock worker: no model\n  try --model\nengine noise\n", ["no model", "  try --model"]),
        ("x" * 300_000 + "\nlast\n", None),
    ],
)
def test_last_words_are_the_clear_message_or_the_end(tmp_path, said, words):
    log = LogFile(tmp_path / "a.log", LogLimits())
    process, recorder = record(log, [], "cat", stdin=subprocess.PIPE)
    process.communicate(said.encode())
    recorder.join(10)
    log.close()
    found = recorder.last_words("penstock worker:")
    assert found == words if words else found[-1] == "last"
    assert (tmp_path / "a.log").read_text() == said


def test_what_a_child_of_the_process_says_is_waited_for(tmp_path):
    log = LogFile(tmp_path / "a.log", SMALL)
    script = "exec 3<&0; (read line <&3; echo grandchild) & exit 0"
    process, recorder = record(log, [], "/bin/sh", "-c", script, stdin=subprocess.PIPE)
    assert process.wait(10) == 0
    assert not recorder.done
    process.stdin.close()
    recorder.join(10)
    log.close()
    assert (recorder.done, (tmp_path / "a.log").read_text()) == (True, "grandchild\n")


@pytest.mark.asyncio
async def test_following_misses_no_line_when_the_file_is_set_aside(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("before\n")
    lines: list[str] = []
    task = asyncio.create_task(follow(path, "worker", lines.append))
    await asyncio.sleep(0)  # it has opened the file
    log = LogFile(path, LogLimits(max_bytes=30_000, backups=3))
    for n in range(20_000):
        log.write(b"%d\n" % n)
        if n % 4000 == 0:
            await eventually(lambda: len(lines) > n)  # noqa: B023 - it is called now
    await eventually(lambda: len(lines) == 20_000)
    log.close()
    task.cancel()
    assert lines == [f"[worker] {n}" for n in range(20_000)]
    assert "a.log.1" in names(tmp_path)
