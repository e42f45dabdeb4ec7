"""The commands about batches and files as their users meet them, with a server behind them that runs a few rows a look."""

from __future__ import annotations

import gzip
import io
import json
import resource
import signal
import subprocess
import sys
from contextlib import redirect_stderr

import pytest

from penstock._core import http
from penstock.cli import batch_work
from penstock.cli.main import main
from tests.support import free_port, wait_until
from tests.unit.penstock.batch_double import answer_row, never_ran
from tests.unit.penstock.double import error
from tests.unit.penstock.test_cli import ENV, command, lines, on_terminal, run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def prompts(folder):
    (folder / "p.txt").write_text("".join(f"prompt {n}\n" for n in range(6)))
    return "p.txt"


def rows(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def ids(path):
    return [row["custom_id"] for row in rows(path)]


def names(folder):
    return sorted(one.name for one in folder.iterdir())


def test_prompts_become_answers_in_their_order(server, folder, prompts):
    server.bulk.pace, server.bulk.shuffle = 4, True
    done = run(
        server, "batch", "run", prompts, "-o", "out.jsonl", "--max-tokens", "5", "--param", 'stop=["x"]'
    )
    assert done.returncode == 0, done.stderr
    (told,) = lines(done)
    assert (told["event"], told["status"], told["total"], told["completed"]) == ("done", "completed", 6, 6)
    assert (told["verified"], told["errors"], told["usage"]["output_tokens"]) == (True, None, 30)
    assert ids(folder / "out.jsonl") == [f"row-{n}" for n in range(1, 7)]
    assert names(folder) == ["out.jsonl", "p.txt"]
    (sent,) = server.bulk.files.values()
    body = json.loads(sent.split(b"\n")[0])["body"]
    assert body == {
        "messages": [{"role": "user", "content": "prompt 0"}],
        "max_tokens": 5,
        "stop": ["x"],
        "model": "m",
    }


def test_as_finished_and_with_failed_rows_apart(server, folder):
    server.bulk.shuffle = True
    (folder / "r.csv").write_text("id,text\na,x\nb,FAIL\nc,y\n")
    args = (
        "--template",
        "Say {text}",
        "--id-field",
        "id",
        "--order",
        "finished",
        "--window",
        "1h",
        "--priority",
        "low",
    )
    done = run(server, "batch", "run", "r.csv", "-o", "out.jsonl", *args, "--metadata", "run=7", "--text")
    assert (done.returncode, done.stdout) == (1, "")
    for words in (
        "2 of 3 rows answered, 1 failed",
        "failed:  out.errors.jsonl",
        "verified: every row is there, once",
    ):
        assert words in done.stderr
    assert (ids(folder / "out.jsonl"), ids(folder / "out.errors.jsonl")) == (["c", "a"], ["b"])
    sent = json.loads(server.asked("/v1/batches")[0].body)
    assert (sent["completion_window"], sent["priority"], sent["metadata"]) == ("1h", "low", {"run": "7"})
    checked = run(
        server, "batch", "verify", "r.csv", "out.jsonl", "--errors", "out.errors.jsonl", "--id-field", "id"
    )
    assert (checked.returncode, lines(checked)[0]["ok"]) == (0, True)
    checked = run(server, "batch", "verify", "r.csv", "out.jsonl", "--id-field", "id", "--text")
    assert checked.returncode == 1
    assert "FAILED: 3 rows, 2 completed, 0 failed, 0 duplicates, 1 missing" in checked.stdout
    assert "missing: b" in checked.stdout


def test_stdin_gzip_and_stdout(server, folder):
    done = run(server, "batch", "run", "-", "-o", "-", "--model", "n", stdin=gzip.compress(b"a\nFAIL\n"))
    assert done.returncode == 1, done.stderr
    assert [row["custom_id"] for row in lines(done)] == ["row-1", "row-2"]
    assert "1 of 2 rows answered, 1 failed" in done.stderr
    assert names(folder) == []


def test_events_for_scripts(server, folder, prompts):
    server.bulk.pace = 3
    done = run(server, "batch", "run", prompts, "-o", "out.jsonl", "--json")
    told = lines(done)
    order = [one["event"] for one in told if one["event"] in {"read", "submitted", "done"}]
    assert order == ["read", "submitted", "done"]
    progress = [one for one in told if one["event"] == "progress"]
    assert (progress[-1]["total"], progress[-1]["completed"], progress[-1]["received"]) == (6, 6, 6)
    assert done.stderr == ""


@pytest.mark.parametrize("installed", [True, False])
def test_where_no_server_is_named_and_none_answers(folder, prompts, monkeypatch, installed):
    monkeypatch.setattr(http, "DEFAULT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(batch_work, "server_is_installed", lambda: installed)
    monkeypatch.setattr(sys, "argv", ["penstock", "batch", "run", prompts, "-o", "out.jsonl"])
    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit) as end:
        main()
    if installed:  # it goes on to ask for what an embedded run needs
        assert "none was named: running everything here (--embedded)." in said.getvalue()
        assert (end.value.code, "name the model to run with --model" in said.getvalue()) == (2, True)
    else:
        assert (end.value.code, "name one with --url, or install the server" in said.getvalue()) == (3, True)
    assert names(folder) == ["p.txt"]


def test_a_bar_on_a_terminal(server, folder, prompts):
    code, shown = on_terminal(server, "batch", "run", prompts, "-o", "out.jsonl")
    assert code == 0
    for words in ("p.txt: 6 rows (text), model m", "completed: 6 of 6 rows answered", "answers: out.jsonl"):
        assert words in shown


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("none.txt",), "cannot read none.txt: No such file"),
        (("bad.jsonl",), "line 2, column 12: this is not JSON"),
        (("p.txt", "--template", "{x}"), "there is no field 'x' here, only prompt, text, line"),
        (("p.txt", "--template", "a", "--template-file", "p.txt"), "either --template or --template-file"),
        (("p.txt", "--concurrency", "3"), "--concurrency goes with --embedded"),
        ((), "name the INPUT"),
        (("p.txt", "-o", "none/out.jsonl"), "there is no folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(server, folder, prompts, args, said):
    (folder / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": }\n')
    done = run(server, "batch", "run", "-o", "out.jsonl", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not server.bulk.files
    assert names(folder) == ["bad.jsonl", "p.txt"]


def test_what_is_there_is_not_replaced_unasked(server, folder, prompts):
    (folder / "out.jsonl").write_text("precious")
    done = run(server, "batch", "run", prompts, "-o", "out.jsonl")
    assert (done.returncode, "--overwrite" in done.stderr) == (2, True)
    assert run(server, "batch", "run", prompts, "-o", "out.jsonl", "--resume").returncode == 2
    assert (folder / "out.jsonl").read_text() == "precious"
    assert run(server, "batch", "run", prompts, "-o", "out.jsonl", "--overwrite").returncode == 0
    assert len(rows(folder / "out.jsonl")) == 6


def test_a_refusal_leaves_nothing_to_go_on_with(server, folder, prompts):
    server.faults.append((413, {}, error("file_too_large", "too large")))
    done = run(server, "batch", "run", prompts, "-o", "out.jsonl", "--model", "m")
    assert (done.returncode, "too large" in done.stderr) == (4, True)
    assert names(folder) == ["p.txt"]


@pytest.mark.parametrize("status", [401, 403, 408, 409, 429, 500, 503])
@pytest.mark.parametrize("sent", [False, True])
def test_a_refusal_that_may_be_mended_keeps_what_was_made(server, folder, prompts, status, sent):
    path = "/v1/batches" if sent else "/v1/files"
    server.faults_of[path] = (status, {"retry-after": "0"}, error("invalid_api_key", "not now"))
    done = run(server, "batch", "run", prompts, "-o", "out.jsonl", "--model", "m")
    assert (done.returncode, "not now" in done.stderr) == (4, True)
    work = folder / "out.jsonl.penstock"
    assert f"kept in {work.name}" in done.stderr
    assert "resume: penstock batch run -o out.jsonl --resume" in done.stderr
    assert work.exists()
    server.faults_of.clear()
    again = run(server, "batch", "run", "-o", "out.jsonl", "--resume")
    assert again.returncode == 0, again.stderr
    assert ids(folder / "out.jsonl") == [f"row-{n}" for n in range(1, 7)]
    assert len(server.bulk.files) == len(server.bulk.runs) == 1


def test_a_refused_lane_is_another_command_and_not_a_resumed_one(server, folder, prompts):
    server.faults_of["/v1/batches"] = (403, {}, error("lane_not_allowed", "its lanes are: normal"))
    done = run(server, "batch", "run", prompts, "-o", "out.jsonl", "--model", "m")
    assert done.returncode == 4
    assert "its lanes are: normal; choose another lane with --priority LANE" in done.stderr
    assert "resume" not in done.stderr
    assert names(folder) == ["p.txt"]
    server.faults_of.clear()
    again = run(server, "batch", "run", prompts, "-o", "out.jsonl", "--model", "m", "--priority", "normal")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("sent", [False, True])
def test_a_corrected_command_takes_the_place_of_one_that_sent_nothing(server, folder, prompts, sent):
    path = "/v1/batches" if sent else "/v1/files"
    server.faults_of[path] = (401, {}, error("invalid_api_key", "wrong key"))
    assert run(server, "batch", "run", prompts, "-o", "out.jsonl", "--model", "m").returncode == 4
    server.faults_of.clear()
    corrected = run(server, "batch", "run", prompts, "-o", "out.jsonl", "--model", "m", "--max-tokens", "3")
    if sent:  # it may be that the server took it
        assert (corrected.returncode, "holds an unfinished run" in corrected.stderr) == (2, True)
        return
    assert corrected.returncode == 0, corrected.stderr
    assert len(server.bulk.files) == len(server.bulk.runs) == 1
    assert names(folder) == ["out.jsonl", "p.txt"]


def test_a_wrong_input_that_only_the_server_can_see(server, folder, prompts):
    server.bulk.pace = 0
    batch = run(server, "batch", "submit", prompts, "--model", "m")
    (batch_id,) = server.bulk.runs
    assert lines(batch)[0]["id"] == batch_id
    server.bulk.end(batch_id, "failed")
    server.bulk.runs[batch_id].fields["errors"] = {
        "data": [{"code": "model_not_found", "message": "no such model", "line": 1}]
    }
    done = run(server, "batch", "watch", batch_id, "--text")
    assert (done.returncode, "line 1: model_not_found: no such model" in done.stdout) == (1, True)
    work = folder / "out.jsonl.penstock"
    process = started(server, prompts, "-o", "out.jsonl")
    wait_until(lambda: len(server.bulk.runs) == 2)
    server.bulk.runs["batch_0002"].fields |= server.bulk.runs[batch_id].fields
    server.bulk.end("batch_0002", "failed")
    _, said = process.communicate(timeout=30)
    assert (process.returncode, "line 1: model_not_found" in said, work.exists()) == (1, True, False)


def started(server, *args):
    """A run in a process of its own, so that it can be interrupted."""
    return subprocess.Popen(
        command(server, "batch", "run", *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV,
    )


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_stopped_and_resumed_every_row_is_there_once(server, folder, prompts, signum, code):
    server.bulk.pace = 1
    done_rows = []

    def slow(row):
        done_rows.append(row)
        if len(done_rows) == 3:
            server.bulk.pace = 0
        return answer_row(row)

    server.bulk.run_row = slow
    process = started(server, prompts, "-o", "out.jsonl")
    state = folder / "out.jsonl.penstock" / "state.json"
    wait_until(lambda: state.exists() and json.loads(state.read_text())["received"] >= 2)
    process.send_signal(signum)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    if signum != signal.SIGKILL:
        assert "resume: penstock batch run -o out.jsonl --resume" in said
        assert "cancel: penstock batch cancel batch_0001" in said
    refused = run(server, "batch", "run", prompts, "-o", "out.jsonl")
    assert (refused.returncode, "holds an unfinished run" in refused.stderr) == (2, True)
    refused = run(server, "batch", "run", prompts, "-o", "out.jsonl", "--max-tokens", "3", "--resume")
    assert (refused.returncode, "other options" in refused.stderr) == (2, True)
    server.bulk.pace = 10
    with (folder / "out.jsonl.penstock" / "rows.jsonl").open("ab") as torn:
        torn.write(b'{"custom_id": "row-9')
    named = [prompts] if signum == signal.SIGINT else []
    again = run(server, "batch", "run", *named, "-o", "out.jsonl", "--resume")
    assert again.returncode == 0, again.stderr
    assert ids(folder / "out.jsonl") == [f"row-{n}" for n in range(1, 7)]
    assert len(server.bulk.runs) == len(server.bulk.files) == 1
    assert names(folder) == ["out.jsonl", "p.txt"]


def test_a_disk_that_is_full_is_said_and_the_run_goes_on_when_it_has_room(server, folder, prompts):
    done = run(server, "batch", "run", prompts, "-o", "other.jsonl", "--model", "m")
    sent = (folder / "p.txt").stat().st_size + len(next(iter(server.bulk.files.values())))
    assert (done.returncode, (folder / "other.jsonl").stat().st_size > sent) == (0, True)
    (folder / "other.jsonl").unlink()
    # The kernel refuses what makes a file longer than this, as a full disk does, in the middle of a write.
    process = subprocess.Popen(
        command(server, "batch", "run", prompts, "-o", "out.jsonl", "--model", "m"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (sent, sent)),  # noqa: PLW1509 - a system call
    )
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    assert "cannot write" in said
    assert "penstock batch run -o out.jsonl --resume" in said
    assert "out.jsonl" not in names(folder)
    assert run(server, "batch", "run", "-o", "out.jsonl", "--resume").returncode == 0
    assert ids(folder / "out.jsonl") == [f"row-{n}" for n in range(1, 7)]
    assert len(server.bulk.runs) == 2


def test_a_server_that_is_away_is_waited_for(server, folder, prompts):
    server.bulk.hold = 2
    process = started(server, prompts, "-o", "out.jsonl", "--model", "m", "--json")
    wait_until(lambda: server.bulk.runs)
    server.faults.extend([(503, {}, error("redis_unavailable"))] * 6)
    server.bulk.hold = None
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert any(json.loads(line)["event"] == "away" for line in out.splitlines())
    assert len(rows(folder / "out.jsonl")) == 6


def test_a_cancelled_batch_gives_what_there_is(server, folder, prompts):
    server.bulk.hold = 2
    process = started(server, prompts, "-o", "out.jsonl")
    wait_until(lambda: server.bulk.runs and next(iter(server.bulk.runs.values())).done)
    server.bulk.end("batch_0001", "cancelled")
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "cancelled:" in said
    found = rows(folder / "out.jsonl") + rows(folder / "out.errors.jsonl")
    assert sorted(row["custom_id"] for row in found) == [f"row-{n}" for n in range(1, 7)]
    assert {row["error"]["code"] for row in rows(folder / "out.errors.jsonl")} == {"batch_cancelled"}


def test_rows_that_stand_only_in_the_servers_files_are_fetched(server, folder, prompts):
    server.bulk.hold = 2
    process = started(server, prompts, "-o", "out.jsonl")
    wait_until(lambda: server.bulk.runs and len(next(iter(server.bulk.runs.values())).done) >= 2)
    one = server.bulk.runs["batch_0001"]
    never = [never_ran(row, "batch_expired") for row in one.left]
    one.fields["error_file_id"] = server.bulk.add_file(
        "".join(json.dumps(row) + "\n" for row in [*never, *one.done[:1]]).encode()
    )
    one.left, one.status = [], "expired"
    out, said = process.communicate(timeout=30)
    assert process.returncode == 1, said
    told = json.loads(out)
    assert (told["status"], told["verified"], told["failed"]) == ("expired", True, len(never))
    assert len(rows(folder / "out.jsonl")) + len(rows(folder / "out.errors.jsonl")) == 6


def test_submit_status_list_and_the_acts(server, folder, prompts):
    server.bulk.pace = 1
    done = run(server, "batch", "submit", prompts, "--text")
    assert done.returncode == 0
    (one,) = server.bulk.runs
    assert f"penstock batch watch {one}" in done.stderr
    assert "in_progress" in run(server, "batch", "status", one, "--text").stdout
    assert lines(run(server, "batch", "list"))[0]["id"] == one
    assert one in run(server, "batch", "list", "--text").stdout
    assert run(server, "batch", "pause", one, "--text").stdout == f"{one} is paused\n"
    assert "paused" in run(server, "batch", "status", one, "--text").stdout
    assert lines(run(server, "batch", "resume", one))[0]["paused"] is False
    assert lines(run(server, "batch", "cancel", one))[0]["status"] == "cancelled"
    assert (
        run(server, "batch", "retry", one, "--text").stdout
        == f"the failed rows of {one} were retried as batch_0002\n"
    )
    assert run(server, "batch", "status", "batch_none").returncode == 4
    assert run(server, "batch", "status", " ").returncode == 2


def test_the_window_is_sent_as_given_and_is_a_day_without_one(server, folder, prompts):
    for given in ((), ("--window", "1h"), ("--window", "")):  # the server judges it, an empty one too
        run(server, "batch", "submit", prompts, *given)
    sent = [json.loads(request.body)["completion_window"] for request in server.asked("/v1/batches")]
    assert sent == ["24h", "1h", ""]


def test_watch_and_results_and_verify_of_the_server(server, folder, prompts):
    server.bulk.pace = 2
    one = lines(run(server, "batch", "submit", prompts))[0]["id"]
    told = lines(run(server, "batch", "watch", one))
    assert [event["event"] for event in told] == ["progress", "progress", "completed"]
    assert run(server, "batch", "watch", one, "--text").returncode == 0
    assert [row["custom_id"] for row in lines(run(server, "batch", "results", one))] == [
        f"row-{n}" for n in range(1, 7)
    ]
    done = run(server, "batch", "results", one, "--follow", "-o", "r.jsonl", "--errors", "e.jsonl")
    assert (done.returncode, len(rows(folder / "r.jsonl")), done.stderr) == (
        0,
        6,
        "6 rows, 0 of them failed\n",
    )
    assert run(server, "batch", "results", one, "-o", "r.jsonl").returncode == 2
    assert lines(run(server, "batch", "verify", one))[0]["ok"] is True
    example = "unknown: line 3 of output"
    server.bulk.verdict = {"ok": False, "missing": 1, "unknown": 2, "unreadable": 3, "examples": [example]}
    done = run(server, "batch", "verify", one, "--text")
    counts = "6 rows, 6 completed, 0 failed, 0 duplicates, 1 missing, 2 unknown, 3 unreadable"
    assert (done.returncode, done.stdout) == (1, f"FAILED: {counts}\n  {example}\n")


def test_files_go_up_and_down(server, folder, prompts):
    one = lines(run(server, "files", "upload", prompts))[0]["id"]
    assert lines(run(server, "files", "get", one))[0]["filename"] == "p.txt"
    assert one in run(server, "files", "list", "--text").stdout
    assert run(server, "files", "download", one).stdout == (folder / "p.txt").read_text()
    assert run(server, "files", "download", one, "-o", "copy").returncode == 0
    assert (folder / "copy").read_bytes() == (folder / "p.txt").read_bytes()
    assert run(server, "files", "download", one, "-o", "copy").returncode == 2
    assert run(server, "files", "delete", one, "--text").stdout == f"{one} deleted\n"
    assert run(server, "files", "download", one, "-o", "copy2").returncode == 4
    assert names(folder) == ["copy", "p.txt"]


def test_help_teaches(server):
    for args in (("batch",), ("batch", "run"), ("files",)):
        shown = run(server, *args, "--help").stdout
        assert "Examples:" in shown
