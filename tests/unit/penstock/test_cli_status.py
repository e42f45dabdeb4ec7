"""``penstock status``: one look, and what of it a key may not see."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from penstock.server.address import announced
from tests.unit.penstock.double import error, pool, worker
from tests.unit.penstock.test_cli import lines, run

NOT_READY = {"status": "not_ready", "missing": ["worker"], "checks": {"redis": "ok", "worker": "none"}}


@pytest.fixture(autouse=True)
def something_there(server):
    server.workers = [worker()]
    server.pools = [pool()]


def test_it_is_one_object_on_a_pipe(server):
    done = run(server, "status")
    assert (done.returncode, done.stderr) == (0, "")
    (seen,) = lines(done)
    assert {name: seen[name] for name in ("url", "status", "checks")} == {
        "url": server.url,
        "status": "ready",
        "checks": {"redis": "ok", "worker": "ok"},
    }
    assert [one["id"] for one in seen["models"]] == ["m"]
    assert [one["name"] for one in seen["workers"]] == ["cpu@host"]
    assert [(one["pool"], one["queued"]) for one in seen["queues"]] == [("default", 1234)]


def test_a_person_sees_all_four(server):
    shown = run(server, "status", "--text").stdout
    places = [
        shown.index(word) for word in (f"{server.url} is ready", "redis: ok", "context", "cpu@host", "lane")
    ]
    assert places == sorted(places)


def test_a_server_that_is_not_ready_is_shown_whole_with_exit_code_4(server):
    server.faults_of["/health/ready"] = (503, {}, NOT_READY)
    server.workers = []
    done = run(server, "status")
    assert (done.returncode, lines(done)[0]["missing"]) == (4, ["worker"])
    assert lines(done)[0]["workers"] == []
    done = run(server, "status", "--text")
    assert (done.returncode, "is not_ready" in done.stdout, "no worker is alive" in done.stderr) == (
        4,
        True,
        True,
    )


@pytest.mark.parametrize("status", [401, 403])
def test_what_the_key_may_not_see_is_left_out_and_said(server, status):
    for path in ("/v1/workers", "/v1/queues"):
        server.faults_of[path] = (status, {}, error("insufficient_scope", "needs metrics"))
    done = run(server, "status")
    assert done.returncode == 0
    assert (lines(done)[0]["workers"], lines(done)[0]["queues"], len(lines(done)[0]["models"])) == (
        None,
        None,
        1,
    )
    assert done.stderr.count("are not shown") == 2
    done = run(server, "status", "--text")
    assert ("cpu@host" in done.stdout, "context" in done.stdout) == (False, True)


def test_health_alone_asks_nothing_else(server):
    done = run(server, "status", "--health")
    assert (done.returncode, lines(done)[0]["status"]) == (0, "ready")
    assert [seen.path for seen in server.seen] == ["/health/ready"]


def test_a_server_that_is_away_is_exit_code_3():
    done = run("http://127.0.0.1:9", "status")
    assert (done.returncode, done.stdout) == (3, "")


def test_a_server_of_this_folder_that_is_not_ready_is_being_mended(server, tmp_path, monkeypatch):
    server.faults_of["/health/ready"] = (503, {}, NOT_READY)
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path))
    words = "`penstock up` of this folder starts again what was lost"
    assert words not in run(server, "status", "--text").stderr
    with announced(tmp_path, server.url):
        assert words in run(server, "status", "--text").stderr
        assert run(server, "status").stderr == ""


def test_another_server_at_the_address_is_not_penstock():
    """As Python's own file server answers, whose 404 is a web page."""
    handler = partial(SimpleHTTPRequestHandler, directory=os.devnull)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other, ThreadPoolExecutor() as pool:
        pool.submit(other.serve_forever, 0.05)
        url = f"http://127.0.0.1:{other.server_port}"
        try:
            status, listed = run(url, "status"), run(url, "jobs", "list")
        finally:
            other.shutdown()
    assert (status.returncode, listed.returncode) == (4, 4)
    assert status.stderr.endswith(
        f"penstock: what answers at {url} is not Penstock; name the server with --url\n"
    )
    assert "404: what answers is not Penstock, but sends a web page" in listed.stderr
    assert "DOCTYPE" not in status.stderr + listed.stderr


def test_health_is_shown_when_nothing_else_answers_and_nothing_is_tried_again(server):
    away = {"status": "not_ready", "missing": ["redis"], "checks": {"redis": "refused"}}
    server.faults_of["/health/ready"] = (503, {}, away)
    for path in ("/v1/models", "/v1/workers", "/v1/queues"):
        server.faults_of[path] = (503, {}, error("store_unavailable"))
    done = run(server, "status")
    (seen,) = lines(done)
    assert (done.returncode, seen["missing"], seen["checks"]) == (4, ["redis"], {"redis": "refused"})
    assert (seen["models"], seen["workers"], seen["queues"]) == (None, None, None)
    assert (done.stderr.count("are not shown"), "trying again" in done.stderr) == (3, False)
    assert len(server.asked("/v1/models")) == 1
    done = run(server, "status", "--text")
    assert (done.returncode, "redis: refused" in done.stdout) == (4, True)


def test_a_part_that_fails_costs_that_part_alone(server):
    server.faults_of["/v1/workers"] = (400, {}, error("unsupported"))
    done = run(server, "status")
    assert (done.returncode, lines(done)[0]["workers"], len(lines(done)[0]["queues"])) == (4, None, 1)
