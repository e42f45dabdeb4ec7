"""Long downloads that are stopped: what came stays, and the same command continues."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.support import wait_until
from tests.unit.penstock.batch_double import Row
from tests.unit.penstock.double import Double
from tests.unit.penstock.test_cli import ENV, command, run
from tests.unit.penstock.test_cli_batch import ids, names

ROWS: list[Row] = [{"custom_id": f"r{n}", "body": {"x": "FAIL" if n in {1, 4} else "ok"}} for n in range(6)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(batch_id: str, *options: str) -> tuple[str, ...]:
    return ("batch", "results", batch_id, "--follow", "-o", "out.jsonl", *options)


def stopped(server: Double, folder, rows: int, *args: str) -> str:
    """Run a command until it has kept so many rows, press Ctrl-C, and return what it said."""
    note = folder / "out.jsonl.part.json"
    with subprocess.Popen(command(server, *args), stderr=subprocess.PIPE, env=ENV, cwd=folder) as process:
        wait_until(lambda: note.exists() and json.loads(note.read_bytes())["state"].get("rows") == rows)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    return said.decode()


def test_rows_that_came_are_kept_at_ctrl_c_and_the_same_command_continues(server, folder):
    batch_id = server.bulk.add_batch(ROWS)
    server.bulk.pace, server.bulk.hold = 1, 3
    args = results(batch_id, "--errors", "bad.jsonl")
    said = stopped(server, folder, 3, *args)
    assert "what came is kept in out.jsonl.part and bad.jsonl.part. The same command continues" in said
    assert "Traceback" not in said
    assert (ids(folder / "out.jsonl.part"), ids(folder / "bad.jsonl.part")) == (["r0", "r2"], ["r1"])
    server.bulk.hold = None
    server.seen.clear()
    done = run(server, *args)
    assert done.returncode == 0, done.stderr
    assert "6 rows, 2 of them failed" in done.stderr
    assert (ids(folder / "out.jsonl"), ids(folder / "bad.jsonl")) == (["r0", "r2", "r3", "r5"], ["r1", "r4"])
    assert names(folder) == ["bad.jsonl", "out.jsonl"]
    assert server.seen[0].query["after"]


def test_rows_after_the_last_note_come_again(server, folder):
    """A command that was killed may have written more than it noted."""
    batch_id = server.bulk.add_batch(ROWS)
    server.bulk.pace, server.bulk.hold = 1, 3
    stopped(server, folder, 3, *results(batch_id))
    with (folder / "out.jsonl.part").open("ab") as file:
        file.write(b'{"custom_id": "half a r')
    server.bulk.hold = None
    assert run(server, *results(batch_id)).returncode == 0
    assert ids(folder / "out.jsonl") == [row["custom_id"] for row in ROWS]


def test_what_another_command_left_is_not_mixed_in(server, folder):
    one, other = server.bulk.add_batch(ROWS), server.bulk.add_batch(ROWS[:2])
    server.bulk.pace, server.bulk.hold = 1, 1
    stopped(server, folder, 1, *results(one))
    server.bulk.hold = None
    before = (folder / "out.jsonl.part").read_bytes()
    for args in (results(other), results(one, "--errors", "bad.jsonl")):
        done = run(server, *args)
        assert (done.returncode, "--overwrite starts anew" in done.stderr) == (2, True)
    assert (folder / "out.jsonl.part").read_bytes() == before
    assert run(server, *results(other, "--overwrite")).returncode == 0
    assert ids(folder / "out.jsonl") == ["r0", "r1"]
    assert names(folder) == ["out.jsonl"]


@pytest.mark.parametrize("note", ["", "[]", '{"source": "x"}', "{}"])
def test_an_unreadable_note_is_said(server, folder, note):
    batch_id = server.bulk.add_batch(ROWS)
    (folder / "out.jsonl.part.json").write_text(note)
    assert run(server, *results(batch_id)).returncode == 2
    assert run(server, *results(batch_id, "--overwrite")).returncode == 0
    assert len(ids(folder / "out.jsonl")) == 6


def test_a_server_that_goes_away_leaves_what_came(server, folder):
    batch_id = server.bulk.add_batch(ROWS)
    server.bulk.pace, server.bulk.hold = 1, 2
    stopped(server, folder, 2, *results(batch_id))
    server.faults.append((500, {}, ""))
    done = run(server, *results(batch_id))
    assert (done.returncode, "what came is kept" in done.stderr) == (4, True)
    assert ids(folder / "out.jsonl.part") == ["r0", "r1"]


def test_one_file_for_both_kinds_of_rows_is_one_file(server, folder):
    batch_id = server.bulk.add_batch(ROWS)
    assert run(server, *results(batch_id, "--errors", "out.jsonl")).returncode == 0
    assert len(ids(folder / "out.jsonl")) == 6


def test_a_download_continues_at_the_missing_byte(server, folder):
    content = b"".join(b"%d\n" % n for n in range(1000))
    file_id = server.bulk.add_file(content)
    server.bulk.cuts = [100] + [0] * 20
    args = ("files", "download", file_id, "-o", "copy")
    done = run(server, *args)
    assert done.returncode == 3, done.stderr
    assert "what came is kept in copy.part" in done.stderr
    assert (folder / "copy.part").read_bytes() == content[:100]
    server.bulk.cuts.clear()
    server.seen.clear()
    done = run(server, *args)
    assert done.returncode == 0, done.stderr
    assert (folder / "copy").read_bytes() == content
    assert server.seen[0].headers["range"] == "bytes=100-"
    assert names(folder) == ["copy"]
