"""The commands of those who run the queue: retry, dead, workers, worker drain."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.unit.penstock.double import ID, again, answer, error, job, worker
from tests.unit.penstock.test_cli import CLIENT_ONLY, ENV, lines, on_terminal, run


def test_retry_prints_the_new_job(server):
    done = run(server, "jobs", "retry", ID)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(item["id"], item["retry_of"]) for item in lines(done)] == [(again(ID), ID)]
    assert run(server, "jobs", "retry", ID, ID, "--text").stdout == f"{ID} was retried as {again(ID)}\n" * 2


def test_retry_and_wait_is_about_the_new_job(server):
    # The double knows one job only, so the new one has its id.
    server.faults.append((202, {}, job(retry_of="job_old")))
    server.later.append(job(state="succeeded", result=answer("hi")))
    done = run(server, "jobs", "retry", "job_old", "--wait", "--text")
    assert (done.returncode, done.stdout) == (0, "hi\n")
    assert f"job_old was retried as {ID}" in done.stderr
    server.faults.append((202, {}, job(retry_of="job_old")))
    server.job = job(state="failed", error={"code": "timeout", "message": "slow"}, partial=answer("so far"))
    done = run(server, "jobs", "retry", "job_old", "--wait", "--text")
    assert (done.returncode, done.stdout) == (1, "")
    assert "timeout: slow" in done.stderr
    assert f"penstock jobs get {ID}" in done.stderr


def test_a_job_that_is_not_over_is_a_refusal(server):
    server.faults.append((409, {}, error("job_not_finished", "it is running")))
    done = run(server, "jobs", "retry", ID)
    assert (done.returncode, done.stderr) == (4, "penstock: 409 job_not_finished: it is running\n")


def test_the_limits_of_a_submission(server):
    args = ("--expires-in", "10m", "--queue-timeout", "30s", "--run-timeout", "1m30s")
    assert run(server, "submit", "hello", *args).returncode == 0
    sent = json.loads(server.asked("/v1/jobs")[0].body)
    assert (sent["expires_in_s"], sent["queue_timeout_s"], sent["timeout_s"]) == (600, 30, 90)


def test_a_job_shows_its_limits_its_kin_and_what_it_had_produced(server):
    server.job = job(
        state="failed",
        expires_at=1795416551.123 + 600,
        timeout_s=90,
        queue_timeout_s=30,
        retry_of="job_a",
        retried_as="job_b",
        partial=answer("so far"),
    )
    shown = " ".join(run(server, "jobs", "get", ID, "--text").stdout.split())
    assert "limits whole life 600 s, to its start 30 s, an attempt 90 s" in shown
    for words in ("retry of job_a", "retried as job_b", "partial so far"):
        assert words in shown


def died(total: int) -> list[dict]:
    failure = {"code": "worker_lost", "message": "lost three times"}
    return [job(id=f"job_{n:04}", state="failed", error=failure, attempt=3) for n in range(total)]


def test_dead_list(server):
    server.dead = died(25)
    done = run(server, "jobs", "list", "--dead", "--code", "worker_lost", "--model", "m")
    assert (done.returncode, len(lines(done))) == (0, 20)
    assert server.seen[0].query == {"code": "worker_lost", "model": "m", "limit": "20"}
    assert len(lines(run(server, "jobs", "list", "--dead", "--all"))) == 25
    assert len(lines(run(server, "jobs", "list", "--dead", "-n", "3"))) == 3
    shown = run(server, "jobs", "list", "--dead", "--text", "-n", "1").stdout
    for words in ("id", "message", "job_0000", "worker_lost", "lost three times"):
        assert words in shown
    server.dead = []
    done = run(server, "jobs", "list", "--dead", "--text")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no dead jobs\n")


def test_dead_retry_of_those_named(server):
    server.dead = died(3)
    done = run(server, "jobs", "retry", "--dead", "job_0001", "job_0002")
    assert (done.returncode, done.stderr) == (0, "2 jobs retried\n")
    assert [item["retried_as"] for item in lines(done)] == [again("job_0001"), again("job_0002")]
    assert [item["id"] for item in server.dead] == ["job_0000"]


def test_dead_retry_stops_at_its_limit_and_says_so(server):
    server.dead = died(120)
    done = run(server, "jobs", "retry", "--dead", "--code", "worker_lost")
    assert (done.returncode, len(lines(done))) == (0, 100)
    assert done.stderr == "100 jobs retried; more are left: --all retries them all\n"
    done = run(server, "jobs", "retry", "--dead", "--model", "m", "--limit", "20")
    assert (len(lines(done)), done.stderr) == (20, "20 jobs retried\n")
    assert server.dead == []


def test_dead_retry_of_all_goes_on_past_those_that_cannot_be(server):
    server.dead = died(250)
    server.refused = {f"job_{n:04}" for n in range(0, 120, 40)}
    done = run(server, "jobs", "retry", "--dead", "--all", "--text")
    assert done.returncode == 4
    assert done.stderr == "247 jobs retried, 3 could not be\n"
    assert f"job_0001  {again('job_0001')}\n" in done.stdout
    assert "job_0040  queue_full: no room\n" in done.stdout
    assert {item["id"] for item in server.dead} == server.refused
    sent = [json.loads(seen.body)["ids"] for seen in server.asked("/v1/dead/retry")]
    assert [len(ids) for ids in sent] == [100, 100, 50]


@pytest.mark.parametrize(
    "args",
    [
        ("jobs",),
        ("jobs", "nonsense"),
        ("jobs", "retry", "--dead"),
        ("jobs", "retry", "--dead", "--limit", "5"),
        ("jobs", "retry", "job_1", "--limit", "5"),
        ("jobs", "retry", "--code", "timeout"),
        ("jobs", "retry", "--dead", "job_1", "--wait"),
        ("jobs", "list", "--code", "timeout"),
        ("jobs", "list", "--dead", "--state", "failed"),
        ("jobs", "move", "job_1"),
        ("jobs", "retry", "--dead", "job_1", "--all"),
        ("jobs", "retry", "--dead", "job_1", "--code", "timeout"),
        ("jobs", "retry", "--dead", ""),
        ("jobs", "retry"),
        ("jobs", "retry", " "),
        ("worker", "drain"),
        ("worker", "drain", " "),
        ("worker", "drain", "w", "--timeout", "soon"),
        ("worker", "run", "--name", "w", "drain", "w"),
        ("worker", "nonsense"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_asks_nothing(server, args):
    done = run(server, *args)
    assert done.returncode == 2
    assert done.stderr
    assert server.seen == []


def test_workers(server):
    server.workers = [worker(), worker(id="x", name="gpu0@host", state="draining", kv_cache_usage=None)]
    done = run(server, "worker", "list")
    assert [item["name"] for item in lines(done)] == ["cpu@host", "gpu0@host"]
    assert len(lines(run(server, "worker", "list"))) == 1  # the draining one has gone
    shown = " ".join(run(server, "worker", "list", "--text").stdout.split())
    assert "name state running waiting kv started device models" in shown
    assert "cpu@host ready 2 of 8 0 25%" in shown
    assert "pool" not in shown
    server.workers = [worker(), worker(id="x", pool="small")]
    assert {"pool", "small", "default"} <= set(run(server, "worker", "list", "--text").stdout.split())
    server.workers = []
    done = run(server, "worker", "list", "--text")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no worker is alive\n")


def test_worker_drain_tells_it_and_waits_for_its_end(server):
    server.workers = [worker()]
    done = run(server, "worker", "drain", "cpu@host", "--timeout", "2m", "--text")
    assert done.stdout == "cpu@host drains: 2 jobs running (cpu@host-7-0a1b2c3d)\n".replace(" (", "  (")
    assert json.loads(server.seen[-1].body) == {"timeout_s": 120}
    done = run(server, "worker", "drain", "cpu@host", "--wait")
    assert (done.returncode, done.stderr) == (0, "ended\n")
    assert lines(done)[0]["state"] == "draining"
    assert len(server.asked("/v1/workers")) == 2  # it was still there at the first look
    done = run(server, "worker", "drain", "cpu@host")
    assert (done.returncode, "worker_not_found" in done.stderr) == (4, True)


def test_worker_drain_works_in_a_client_only_install(server):
    server.workers = [worker()]
    argv = [sys.executable, "-c", CLIENT_ONLY, "worker", "drain", "cpu@host"]
    done = subprocess.run(
        argv, capture_output=True, env=ENV | {"PENSTOCK_URL": server.url}, check=False, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["name"] == "cpu@host"


def test_a_terminal_sees_the_bulk_retry_go_on(server):
    server.dead = died(150)
    code, shown = on_terminal(server, "jobs", "retry", "--dead", "--all")
    assert (code, shown.count(again("job_"))) == (0, 150)
    assert "150 jobs retried" in shown
