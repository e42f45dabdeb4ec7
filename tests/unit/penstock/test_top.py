"""``penstock top``: what it draws in which width, and the command around it."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import termios
from select import select

import pytest
from rich.console import Console

from penstock import Penstock
from penstock.cli._top_view import Look, draw
from penstock.fleet_models import Pool, Worker
from penstock.models import Job
from tests.support import wait_until
from tests.unit.penstock.double import ID, error, job, pool, worker
from tests.unit.penstock.test_cli import ENV, command, lines, run

NOW = 1795416561.0
GPU = {
    "index": 0,
    "uuid": "GPU-1",
    "name": "NVIDIA H100",
    "utilization": 0.97,
    "memory_used_bytes": 70 << 30,
    "memory_total_bytes": 80 << 30,
    "temperature_c": 61,
    "power_w": 512.4,
}
RATES = {"tokens_per_s": 1234.5, "jobs_per_s": 3.2, "wait_ms": 1500.0}


def look(**fields) -> Look:
    workers = (
        Worker.model_validate(worker(**RATES, gpus=[GPU], engine_waiting=3)),
        Worker.model_validate(
            worker(id="w2", name="cpu-2@host", state="draining", models=["a-model-of-a-long-name"] * 4)
        ),
    )
    running = job(state="running", attempt=2, worker="cpu@host-7-0a1b2c3d", timings={"started_at": NOW - 90})
    given = {
        "workers": workers,
        "pools": (Pool.model_validate(pool()),),
        "oldest": (Job.model_validate(running),),
    }
    return Look(NOW, "http://127.0.0.1:8080", **given | fields)


def drawn(what: Look, width: int, height: int | None = None) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False, highlight=False)
    console.print(draw(what, width, height), end="")
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [64, 80, 109, 110, 160, 240])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    shown = drawn(look(), width)
    assert max(len(line) for line in shown) <= width
    text = "\n".join(shown)
    for words in ("2 workers", "4/16 running", "1,234 tok/s", "low", "1m", "97%", ID, "draining"):
        assert words in text, words


def test_a_narrow_terminal_leaves_out_what_is_empty() -> None:
    narrow, wide = "\n".join(drawn(look(), 80)), "\n".join(drawn(look(), 160))
    assert "realtime" not in narrow
    assert "realtime" in wide
    assert "models" not in narrow
    assert "a-model-of-a-long-name" in wide
    assert "70.0/80 GiB" in narrow


def test_a_small_screen_is_not_scrolled() -> None:
    assert len(drawn(look(), 80, 4)) == 4
    assert drawn(look(), 100, 4)[0].endswith("http://127.0.0.1:8080")


def test_what_is_not_known_is_left_blank() -> None:
    bare = Worker(id="w", name="w@h")
    text = "\n".join(drawn(Look(NOW, "http://x", (bare,)), 80))
    assert "None" not in text
    assert "tok/s ·" not in text
    assert "no worker is alive" in "\n".join(drawn(Look(NOW, "http://x"), 80))
    assert "no answer" in "\n".join(drawn(look(error="no answer: refused"), 80))
    paused = Pool.model_validate(pool(paused=True))
    assert "default (paused)" in "\n".join(drawn(look(pools=(paused,)), 80))


def test_a_batchs_rows_count_and_its_chunks_do_not() -> None:
    busy = Worker.model_validate(worker(running=3, chunks=2, rows=5))
    assert "6/8 running" in drawn(look(workers=(busy,)), 80)[0]
    assert look(workers=(busy,)).as_json()["running"] == 6
    assert (
        Worker.model_validate(worker(running=1, chunks=2, rows=5)).active == 5
    )  # counted at different moments


def test_a_gpu_that_two_workers_share_is_drawn_once() -> None:
    two = tuple(Worker.model_validate(worker(id=name, name=name, gpus=[GPU])) for name in "ab")
    assert sum("NVIDIA" in line for line in drawn(look(workers=two), 160)) == 1


def test_names_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    evil = Worker.model_validate(worker(name="\x1b[2Jgone", models=["\x07m"]))
    assert not any("\x1b" in line or "\x07" in line for line in drawn(look(workers=(evil,)), 160))


def test_once_for_scripts(server) -> None:
    server.workers = [worker(**RATES, gpus=[GPU])]
    server.pools = [pool()]
    server.jobs = [job(state="running")]
    (seen,) = lines(run(server, "top", "--once"))
    assert (seen["running"], seen["capacity"], seen["queued"], seen["tokens_per_s"]) == (2, 8, 1234, 1234.5)
    assert seen["pools"][0]["lanes"][3] == {"lane": "low", "queued": 1234, "oldest_s": 75.0}
    assert seen["workers"][0]["gpus"][0]["utilization"] == 0.97
    assert [one["id"] for one in seen["oldest_running"]] == [ID]
    (asked,) = server.asked("/v1/jobs")
    assert asked.query == {"state": "running", "order": "asc", "limit": "5"}


def test_once_for_people(server) -> None:
    server.workers = [worker()]
    done = run(server, "top", "--once", "--text", "--jobs", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "cpu@host" in done.stdout
    assert server.asked("/v1/jobs") == []


def test_an_older_server_has_no_queues(server) -> None:
    server.workers = [worker()]
    (seen,) = lines(run(server, "top", "--once"))
    assert (seen["pools"], seen["queued"]) == (None, None)


def test_no_server_is_an_error(server) -> None:
    server.faults.append((403, {}, error("forbidden")))
    assert run(server, "top", "--once").returncode == 4


def test_the_sdk_lists_queues(server) -> None:
    server.pools = [pool(max_active=4)]
    with Penstock(server.url) as client:
        (found,) = client.pools.list()
    assert (found.pool, found.max_active, found.lanes[3].queued) == ("default", 4, 1234)


def test_on_a_terminal_q_ends_it_and_the_terminal_is_as_before(server) -> None:
    server.workers, server.pools = [worker(**RATES)], [pool()]
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    shown = b""

    def says(words: bytes) -> bool:
        nonlocal shown
        shown += os.read(ours, 65536)
        return words in shown

    argv = command(server, "top", "--interval", "0.2")
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=ENV) as process:
        wait_until(lambda: says(b"1,234 tok/s"))
        os.write(ours, b"\x1b[A")  # an arrow key means nothing here
        seen = len(server.asked("/v1/workers"))
        wait_until(lambda: says(b"") and len(server.asked("/v1/workers")) > seen + 1)
        os.write(ours, b"q")

        def ended() -> bool:
            """What it still shows is read: a terminal that is full would hold it up."""
            if select([ours], [], [], 0)[0]:
                says(b"")
            return process.poll() is not None

        wait_until(ended)
        assert process.returncode == 0
        assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
    assert shown.startswith(b"\x1b[?1049h")  # a screen of its own, so that the shell's stays as it was
