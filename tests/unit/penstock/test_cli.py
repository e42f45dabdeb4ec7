"""The command line as its users meet it: on a pipe, on a terminal, interrupted, with a server behind it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from penstock.cli.main import main
from tests.unit.penstock.double import ID, Double, answer, chunk, error, job

ROOT = Path(__file__).parents[3]
ENV = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")} | {
    "PYTHONPATH": str(ROOT),
    "PENSTOCK_SERVERS_FILE": os.devnull,
}


def command(server: Double | str, *args: str) -> list[str]:
    url = server if isinstance(server, str) else server.url
    return [sys.executable, "-m", "penstock", "--url", url, *args]


def run(server: Double | str, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run the command's own ``main`` in this process: new interpreters would take minutes together."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    argv = command(server, *args)
    with (
        mock.patch.object(sys, "argv", argv[2:]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        main()
    out.seek(0)
    code = end.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(argv, code, out.read(), err.getvalue())


def lines(done: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def on_terminal(server: Double, *args: str) -> tuple[int, str]:
    """Run with stdout and stderr on a terminal; return the exit code and what it showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command(server, *args), stdout=theirs, stderr=theirs, env=ENV) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the terminal's other end is closed
                break
    os.close(ours)
    return process.returncode, shown.decode()


def test_submit_a_prompt_prints_the_job(server):
    options = [
        "--system",
        "s",
        "--max-tokens",
        "5",
        "--temperature",
        "0",
        "--priority",
        "low",
        "--metadata",
        "a=b",
        "--expires-in",
        "10m",
        "--device",
        "h100",
        "--min-memory-gb",
        "40",
    ]
    done = run(server, "submit", "hello", *options, "--idempotency-key", "k")
    assert (done.returncode, done.stderr) == (0, "")
    assert [item["id"] for item in lines(done)] == [ID]
    (seen,) = server.asked("/v1/jobs")
    assert json.loads(seen.body) == {
        "endpoint": "/v1/chat/completions",
        "input": {
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
            "max_tokens": 5,
            "temperature": 0,
            "model": "m",
        },
        "priority": "low",
        "placement": {"device": "h100", "min_memory_gb": 40},
        "metadata": {"a": "b"},
        "expires_in_s": 600,
    }
    assert seen.headers["idempotency-key"] == "k"


def test_submit_a_raw_body_from_stdin_or_a_file(server, tmp_path):
    body = {"model": "own", "prompt": "x", "n": 2}
    file = tmp_path / "in.json"
    file.write_text(json.dumps(body))
    assert run(server, "submit", "--input", str(file), "--endpoint", "completions").returncode == 0
    assert (
        run(server, "submit", "-i", "-", "--endpoint", "completions", stdin=file.read_bytes()).returncode == 0
    )
    assert run(server, "submit", "-d", json.dumps(body), "--endpoint", "rerank").returncode == 0
    sent = [json.loads(seen.body) for seen in server.asked("/v1/jobs")]
    assert [item["input"] for item in sent] == [body, body, body]
    assert [item["endpoint"] for item in sent] == ["/v1/completions", "/v1/completions", "/v1/rerank"]
    assert server.asked("/v1/models") == []


@pytest.mark.parametrize("args", [("submit",), ("submit", "-")])
def test_a_prompt_is_read_from_stdin(server, args):
    done = run(server, *args, stdin="gr\u00fc\u00df dich\n".encode())
    assert done.returncode == 0, done.stderr
    sent = json.loads(server.asked("/v1/jobs")[0].body)
    assert sent["input"]["messages"] == [{"role": "user", "content": "gr\u00fc\u00df dich"}]


@pytest.mark.parametrize("stdin", [b"", b" \n", b"\xff"])
def test_stdin_without_a_prompt_is_wrong_usage(server, stdin):
    done = run(server, "submit", stdin=stdin)
    assert (done.returncode, "stdin" in done.stderr) == (2, True)
    assert server.seen == []


def test_submit_waits_no_longer_than_its_timeout(server):
    done = run(server, "submit", "x", "--wait", "--timeout", "0.2s")
    assert (done.returncode, "still queued after 0.2 s" in done.stderr) == (5, True)
    assert "timeout_s" not in json.loads(server.asked("/v1/jobs")[0].body)
    done = run(server, "submit", "x", "--timeout", "5m")
    assert (done.returncode, "--run-timeout" in done.stderr) == (2, True)


def test_the_clients_model_is_not_the_servers(server, monkeypatch, tmp_path):
    monkeypatch.setenv("PENSTOCK_MODEL", "/models/what-the-server-loads")
    server.models = ["served"]
    body = tmp_path / "in.json"
    body.write_text('{"model": "own", "messages": []}')
    run(server, "submit", "x")
    monkeypatch.setenv("PENSTOCK_CLIENT_MODEL", "mine")
    run(server, "submit", "x")
    run(server, "submit", "x", "--model", "named")
    run(server, "submit", "--input", str(body))
    sent = [json.loads(seen.body)["input"]["model"] for seen in server.asked("/v1/jobs")]
    assert sent == ["served", "mine", "named", "own"]
    assert len(server.asked("/v1/models")) == 1


def test_a_retry_is_said(server):
    server.faults.append((503, {}, error("no_worker", "none is ready")))
    done = run(server, "jobs", "get", ID)
    assert done.returncode == 0
    assert done.stderr.startswith("penstock: 503 no_worker: none is ready; trying again in 0.0 s (1 of 4)")
    assert done.stderr.count("\n") == 1


def test_the_first_model_is_said_where_there_are_several(server):
    server.models = ["one", "two"]
    done = run(server, "submit", "hi")
    assert "using the first of 2 models: one" in done.stderr
    server.models = []
    done = run(server, "submit", "hi")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "serves no model" in done.stderr


def test_submit_and_wait(server):
    server.later.append(job(state="succeeded", result=answer("hi")))
    done = run(server, "submit", "hello", "--wait")
    assert done.returncode == 0
    assert lines(done)[0]["result"] == answer("hi")
    done = run(server, "jobs", "wait", ID, "--text")
    assert done.stdout == "hi\n"
    assert "succeeded · 12 + 32 tokens · 41.5 tok/s · queue 7 ms · total 777 ms" in done.stderr


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
def test_a_job_that_did_not_succeed_is_exit_code_1(server, state):
    server.job = job(state=state, error={"code": "engine_error", "message": "boom"})
    server.happened("a", end=state)
    for args in (
        ("submit", "x", "--wait"),
        ("jobs", "wait", ID),
        ("jobs", "stream", ID),
        ("jobs", "get", ID, "--result"),
    ):
        done = run(server, *args)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), args
        assert done.stderr.startswith(f"penstock: {ID}")
    assert run(server, "jobs", "get", ID).returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("nonsense",),
        ("submit",),
        ("submit", "x", "--input", "-"),
        ("submit", "x", "--data", "{}"),
        ("submit", "--data", "{"),
        ("submit", "x", "--stream", "--wait"),
        ("submit", "--input", "-", "--system", "s"),
        ("submit", "x", "--expires-in", "soon"),
        ("submit", "x", "--priority", "realtime"),
        ("jobs", "wait"),
        ("jobs", "list", "--state", "gone"),
        ("jobs", "get", ""),
    ],
)
def test_wrong_usage_is_exit_code_2(server, args):
    assert run(server, *args).returncode == 2
    assert server.seen == []


def test_an_address_that_is_none_is_wrong_usage():
    done = run("nowhere", "status", "--health")
    assert (done.returncode, "http://" in done.stderr) == (2, True)


def test_no_server_is_exit_code_3():
    done = run("http://127.0.0.1:9", "status", "--health")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert "Is the server running?" in done.stderr


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "invalid_request"), (404, "job_not_found"), (409, "idempotency_conflict"), (500, "x")],
)
def test_a_refusal_is_exit_code_4_and_one_line(server, status, code):
    server.faults.append((status, {}, error(code, "first\nsecond")))
    done = run(server, "jobs", "get", ID)
    assert (done.returncode, done.stderr) == (4, f"penstock: {status} {code}: first second\n")


def test_not_finished_in_time_is_exit_code_5(server):
    done = run(server, "jobs", "wait", ID, "--timeout", "0.2s")
    assert (done.returncode, "still queued" in done.stderr) == (5, True)
    assert run(server, "jobs", "get", ID, "--result").returncode == 5


def test_stream_as_events_and_as_text(server):
    server.happened("a", "b")
    done = run(server, "jobs", "stream", ID)
    assert [(item["id"], item["event"]) for item in lines(done)] == [
        (i, kind) for i, kind, _ in server.events
    ]
    done = run(server, "jobs", "stream", ID, "--text", "--after", "2")
    assert done.stdout == "b\n"
    done = run(server, "submit", "hi", "--stream", "--text")
    assert done.stdout == "ab\n"
    assert json.loads(server.asked("/v1/jobs")[0].body)["stream"] is True


def test_a_restart_is_said_in_a_text_stream(server):
    server.happened("a", "b")
    server.events[3] = ("3", "restarted", {"attempt": 2})
    done = run(server, "jobs", "stream", ID, "--text")
    assert (done.returncode, "attempt 2 starts over" in done.stderr) == (0, True)


def test_list_models_health_cancel(server):
    server.jobs = [job(id=f"job_{n}") for n in range(130)]
    assert len(lines(run(server, "jobs", "list"))) == 20
    assert len(lines(run(server, "jobs", "list", "--all"))) == 130
    table = run(server, "jobs", "list", "--text", "--state", "queued", "--since", "1h", "-n", "3").stdout
    assert table.count("job_") == 3
    assert server.seen[-1].query["state"] == "queued"
    assert lines(run(server, "models", "list"))[0]["id"] == "m"
    assert lines(run(server, "status", "--health"))[0]["status"] == "ready"
    server.faults.append(
        (503, {}, {"status": "not_ready", "missing": ["worker"], "checks": {"worker": "none"}})
    )
    done = run(server, "status", "--health", "--text")
    assert (done.returncode, "worker: none" in done.stdout) == (4, True)
    server.job = job(state="cancelled")
    assert run(server, "jobs", "cancel", ID, ID, "--text").stdout == f"{ID} cancelled\n" * 2


def test_on_a_terminal_it_speaks_to_people(server):
    code, shown = on_terminal(server, "submit", "hi")
    assert code == 0
    assert ID in shown
    assert f"penstock jobs wait {ID}" in shown
    server.happened("hello \x1b[2J\x07world", "!")
    code, shown = on_terminal(server, "jobs", "stream", ID)
    assert code == 0
    assert "hello [2Jworld!" in shown  # generated text cannot steer the terminal
    assert "41.5 tok/s" in shown
    server.jobs = [job(model="[red]" + "m" * 200)]
    assert ID in on_terminal(server, "jobs", "list")[1]
    server.job = job(state="succeeded", result={"data": [{"embedding": [0.5]}]})
    assert "embedding" in on_terminal(server, "jobs", "wait", ID)[1]


def test_ctrl_c_says_how_to_go_on(server):
    server.happened(*"ab")
    server.events.pop()  # the stream ends before the job, and is opened anew, for ever
    with subprocess.Popen(
        command(server, "jobs", "stream", ID), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
    ) as process:
        assert process.stdout is not None
        for _ in server.events:
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"penstock jobs stream {ID} --after 3" in said.decode()
    assert f"penstock jobs cancel {ID}" in said.decode()
    assert "Traceback" not in said.decode()


def test_ctrl_c_while_waiting_says_how_to_go_on(server):
    with subprocess.Popen(
        command(server, "submit", "x", "--wait"), stderr=subprocess.PIPE, env=ENV
    ) as process:
        while not server.asked(f"/v1/jobs/{ID}"):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"penstock jobs cancel {ID}" in said.decode()
    assert "Traceback" not in said.decode()


def test_a_reader_that_leaves_is_no_error(server):
    server.events = [(str(n), "chunk", chunk("x" * 1000)) for n in range(2000)]
    server.events.append(("2000", "succeeded", job(state="succeeded")))
    for args in (("jobs", "stream", ID), ("jobs", "stream", ID, "--text")):
        with subprocess.Popen(
            command(server, *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(timeout=30) == 141


CLIENT_ONLY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"api", "workers", "broker", "jobs", "monitoring", "celery", "fastapi"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from penstock.cli.main import main
main()
"""


@pytest.mark.parametrize("name", ["up", "api", "worker run", "flower"])
def test_a_server_command_in_a_client_only_install(name):
    done = subprocess.run(
        [sys.executable, "-c", CLIENT_ONLY, *name.split()],
        capture_output=True,
        env=ENV,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{name.split()[0]} needs the repository checkout" in done.stderr


def test_help_imports_nothing_slow():
    code = "import sys\nfrom penstock.cli.submit import submit\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENV, check=True, text=True)
    assert not {"httpx", "pydantic", "rich", "celery", "redis"} & set(done.stdout.split())


def test_the_sdk_imports_nothing_of_the_servers():
    code = "import sys, penstock\n[getattr(penstock, n) for n in penstock.__all__]\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENV, check=True, text=True)
    tops = {name.partition(".")[0] for name in done.stdout.split()}
    assert not {"api", "workers", "broker", "jobs", "monitoring", "redis", "celery"} & tops


@pytest.mark.parametrize("key", ["hun\nter2", "hunt\u00e9r2"])
def test_a_key_that_no_header_can_carry_is_a_usage_error(server, key):
    done = run(server, "--api-key", key, "jobs", "get", ID)
    assert done.returncode == 2
    assert "may have printable ASCII characters only" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hun" not in done.stderr
    assert server.seen == []


@pytest.mark.parametrize("state", ["queued", "succeeded"])
def test_the_list_of_jobs_fits_80_columns(server, monkeypatch, state):
    server.jobs = [job(state=state, position=1234 if state == "queued" else None, eta_s=99)]
    monkeypatch.setitem(ENV, "COLUMNS", "80")
    code, shown = on_terminal(server, "jobs", "list")
    heads, line, noted = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert (code, heads.split()[:4]) == (0, ["id", "state", "model", "created"])
    assert ID in line
    assert max(len(heads), len(line)) <= 80
    assert noted == "A wider terminal, or --json, shows more of them."
