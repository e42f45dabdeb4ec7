"""What commands say of errors: of one among several ids, of odd ids, and as JSON."""

from __future__ import annotations

import json

import pytest

from penstock.cli._exits import json_lines, worse
from tests.unit.penstock.double import ID, Double, answer, error, job
from tests.unit.penstock.test_cli import lines, run

GONE = "job_gone"
BATCH_GONE = "batch_gone"


def json_errors(done) -> list[dict]:
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    "args",
    [
        ("jobs", *words)
        for words in (("cancel",), ("wait",), ("retry",), ("move", "--top"), ("wait", "--timeout", "1m"))
    ],
)
def test_a_404_stops_no_other_job(server, args):
    server.job = job(state="succeeded", result=answer("hi"))
    done = run(server, *args, GONE, ID, "job_gone2")
    assert done.returncode == 4
    assert len(lines(done)) == 1
    assert done.stderr.splitlines()[0] == f"penstock: {GONE}: 404 job_not_found: no"
    assert done.stderr.splitlines()[-1] == "penstock: job_gone2: 404 job_not_found: no"


@pytest.mark.parametrize("name", ["status", "cancel", "pause", "resume", "retry"])
def test_a_404_stops_no_other_batch(server, name):
    one = server.bulk.add_batch([])
    done = run(server, "batch", name, BATCH_GONE, one)
    assert done.returncode == 4
    assert len(lines(done)) == 1
    assert done.stderr == f"penstock: {BATCH_GONE}: 404 batch_not_found: no such batch\n"


def test_a_404_stops_no_other_file(server):
    one = server.bulk.add_file(b"{}")
    done = run(server, "files", "delete", "file-gone", one)
    assert done.returncode == 4
    assert lines(done) == [{"id": one, "deleted": True}]


def test_a_file_that_is_gone_at_the_second_try_may_have_been_deleted_by_the_first(server):
    server.faults.append((502, {}, "bad gateway"))
    done = run(server, "files", "delete", "file-gone")
    assert done.returncode == 4
    assert done.stderr.endswith("no such file; an earlier try, whose answer was lost, may have succeeded\n")
    assert "earlier" not in run(server, "files", "delete", "file-gone").stderr


def test_the_worst_code_counts(server):
    server.job = job(state="failed", error={"code": "engine_error", "message": "boom"})
    assert run(server, "jobs", "wait", ID, ID).returncode == 1
    assert run(server, "jobs", "wait", ID, GONE).returncode == 4
    server.job = job(state="running")
    assert run(server, "jobs", "wait", "--timeout", "0.1s", ID, ID).returncode == 5
    assert run(server, "jobs", "wait", "--timeout", "0.1s", ID, GONE).returncode == 4


@pytest.mark.parametrize(
    ("codes", "worst"), [((0, 0), 0), ((0, 1), 1), ((1, 5), 5), ((5, 4), 4), ((4, 3), 3), ((3, 0), 3)]
)
def test_codes_are_ordered(codes, worst):
    assert worse(*codes) == worse(*reversed(codes)) == worst


def test_a_server_that_is_away_is_asked_once_and_the_others_are_named():
    done = run("http://127.0.0.1:9", "jobs", "cancel", "job_a", "job_b", "job_c")
    assert done.returncode == 3
    assert done.stderr.count("Is the server running?") == 1
    assert done.stderr.splitlines()[-1] == "not tried: job_b job_c"


def test_with_json_an_error_is_json(server):
    server.faults.append((500, {"x-request-id": "r1"}, error("x", "first\nsecond", param="model")))
    done = run(server, "jobs", "get", ID, "--json")
    assert (done.returncode, done.stdout) == (4, "")
    assert json_errors(done) == [
        {
            "error": {
                "message": "500 x: first second (request r1)",
                "kind": "ServerError",
                "code": "x",
                "status": 500,
                "param": "model",
                "request_id": "r1",
                "exit_code": 4,
            }
        }
    ]


def test_with_json_each_line_of_stderr_is_json(server):
    server.models = ["one", "two"]
    server.faults.append((503, {}, error("no_worker")))
    done = run(server, "submit", "x", "--json")
    retried, noted = json_errors(done)
    assert (retried["retry"]["what"], retried["retry"]["number"]) == ("GET /v1/models", 1)
    assert noted == {"note": "using the first of 2 models: one (choose with --model)"}
    done = run(server, "jobs", "cancel", GONE, ID, "--json")
    (failed,) = json_errors(done)
    assert (failed["id"], failed["error"]["code"], failed["error"]["exit_code"]) == (GONE, "job_not_found", 4)
    assert [one["id"] for one in lines(done)] == [ID]


@pytest.mark.parametrize(
    "args", [("jobs", "get", "--json"), ("jobs", "list", "--json", "--bad"), ("nonsense", "--json")]
)
def test_with_json_wrong_usage_is_json(server, args):
    done = run(server, *args)
    (failed,) = json_errors(done)
    assert (done.returncode, failed["error"]["exit_code"]) == (2, 2)
    assert failed["error"]["message"]


def test_with_json_no_server_is_json():
    done = run("http://127.0.0.1:9", "status", "--health", "--json")
    (failed,) = json_errors(done)
    assert (failed["error"]["kind"], failed["error"]["exit_code"]) == ("APIConnectionError", 3)


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        ([], False),
        (["get", "--json"], True),
        (["get", "--text", "--json"], True),
        (["get", "--json", "--text"], False),
        (["submit", "--", "--json"], False),
    ],
)
def test_when_json_is_asked_for(argv, asked):
    assert json_lines(argv) is asked


ODD = ["", " ", ".", "..", "\udcff", "a/b", "a?b=c", "a%2fb", "\x00", "\x1b[2J", "x" * 5000]
COMMANDS = [
    ("jobs", "get"),
    ("jobs", "get", "--result"),
    ("jobs", "wait", "--timeout", "0.1s"),
    ("jobs", "stream"),
    ("jobs", "cancel"),
    ("jobs", "retry"),
    ("jobs", "move", "--top"),
    ("queue", "pause"),
    ("queue", "resume"),
    ("files", "get"),
    ("files", "download"),
    ("files", "delete"),
    ("batch", "status"),
    ("batch", "watch"),
    ("batch", "results"),
    ("batch", "cancel"),
    ("batch", "pause"),
    ("batch", "resume"),
    ("batch", "retry"),
    ("batch", "verify"),
    ("jobs", "retry", "--dead"),
    ("worker", "drain"),
]


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
def test_an_odd_id_is_refused_in_words(server, args):
    server.pools = []
    for odd in ODD:
        before = len(server.seen)
        done = run(server, *args, odd)
        assert done.returncode in {0, 2, 4} if "--dead" in args else done.returncode in {2, 4}, (odd, done)
        assert done.stderr.strip()
        assert "\x1b" not in done.stderr
        if odd in ODD[:5]:
            assert done.returncode == 2, odd
            assert len(server.seen) == before, odd


@pytest.mark.parametrize(
    "args",
    [
        ("submit", "\udcff"),
        ("submit", "x", "--model", "\udcff"),
        ("submit", "x", "--idempotency-key", "\udcff"),
        ("submit", "x", "--idempotency-key", "a\nb"),
        ("submit", "x", "--metadata", "a=\udcff"),
        ("submit", "x", "--system", "\udcff"),
        ("submit", "x", "--affinity-key", "\udcff"),
        ("jobs", "stream", ID, "--after", "\u00e9"),
        ("jobs", "list", "--model", "\udcff"),
        ("jobs", "list", "--dead", "--code", "\udcff"),
        ("jobs", "retry", "--dead", "--model", "\udcff"),
        ("files", "list", "--purpose", "\udcff"),
        ("--api-key", "\u00e9", "models"),
        ("--api-key", "\udcff", "models"),
        ("--url", "http://[", "models"),
        ("--url", "http://\udcff", "models"),
        ("batch", "results", "batch_1", "-o", "\udcff/x"),
        ("files", "upload", "\udcff"),
        *(("files", "download", "f", "-o", name) for name in ("", ".", "..", "/")),
        *(("batch", "results", "b", "-o", name) for name in ("", ".", "..", "/")),
        *(("batch", "results", "b", "--errors", name) for name in ("", ".", "..", "/")),
        *(("batch", "run", "p.txt", "-o", name) for name in ("", ".", "..", "/")),
        ("batch", "run", "", "-o", "x"),
        ("batch", "run", "p.txt", "-o", "x", "--errors", ""),
        ("batch", "submit", ""),
        ("batch", "submit", "."),
        ("batch", "verify", "a", "b"),
        ("submit", "x", "--temperature", "nan"),
        ("submit", "x", "--min-memory-gb", "nan"),
        ("jobs", "list", "--since", "9999999d"),
        ("worker", "drain", "w", "--timeout", "9999999d"),
        ("top", "--once", "--interval", "nan"),
    ],
)
def test_odd_text_is_no_traceback(server: Double, args):
    assert run(server, *args).returncode in {0, 2, 3, 4}


def test_help_has_a_short_option(server):
    assert run(server, "-h").stdout == run(server, "--help").stdout
    assert "Exit codes:" in run(server, "files", "get", "-h").stdout


def test_a_full_queue_says_once_when_to_try_again_and_what_else_to_do(server):
    full = error("queue_full", "Queue full: 1 job is waiting; retry in 0 s")
    server.faults_of["/v1/jobs"] = (429, {"retry-after": "0"}, full)
    last = run(server, "submit", "hello", "--model", "m").stderr.splitlines()[-1]
    assert last == (
        "penstock: 429 queue_full: Queue full: 1 job is waiting; retry in 0 s."
        " See what waits: penstock queue list, penstock jobs list --state queued"
    )


def test_a_missing_key_says_how_to_give_it(server):
    server.faults.append((401, {}, error("invalid_api_key")))
    done = run(server, "models")
    assert done.returncode == 4
    assert done.stderr.endswith(". The key comes from --api-key or PENSTOCK_API_KEY.\n")


def test_an_empty_prompt_is_no_job(server):
    done = run(server, "submit", " ")
    assert (done.returncode, server.asked("/v1/jobs")) == (2, [])
    assert "the PROMPT is empty" in done.stderr
