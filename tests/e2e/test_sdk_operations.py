"""Deadlines, retries, dead jobs and workers with the SDK and the command line, against the real stack."""

from __future__ import annotations

import json

import pytest

from penstock import Penstock, errors
from tests.e2e.test_sdk_cli import BODY, LONG, penstock
from tests.pace import Pace

pytestmark = pytest.mark.xdist_group("stack")

SLOW = BODY | {"max_tokens": 1500}
"""About three seconds of work."""


@pytest.fixture
def client(stack):
    with Penstock(stack.url) as made:
        yield made


def timed_out(client, **more):
    """A job that has died of its time limit."""
    job = client.submit(LONG, timeout_s=0.4, **more)
    return client.wait(job.id, timeout_s=60, check=False)


def test_an_attempt_has_its_time_and_what_it_produced_is_kept(client):
    pace = Pace()
    job = client.submit(LONG, timeout_s=1.5, queue_timeout_s=60, stream=True)
    assert (job.timeout_s, job.queue_timeout_s) == (1.5, 60)
    pieces = []
    with pytest.raises(errors.JobFailedError) as caught:
        pieces.extend(client.stream(job.id))
    assert caught.value.job.error.code == "timeout"
    got = client.jobs.get(job.id)
    assert (got.state, got.attempt, got.result) == ("failed", 1, None)
    assert got.partial["choices"][0]["finish_reason"] == "abort"
    assert got.partial_text == "".join(pieces) != ""
    assert 1.5 <= got.timings.finished_at - got.timings.started_at < pace.stretch(5)


def test_a_cancelled_job_keeps_its_text_and_can_be_run_again(client):
    job = client.submit(SLOW, stream=True, metadata={"run": "7"})
    for event in client.jobs.events(job.id):
        if event.text:
            client.jobs.cancel(job.id)
    old = client.jobs.get(job.id)
    assert (old.state, bool(old.partial_text)) == ("cancelled", True)
    new = client.jobs.retry(job.id)
    assert (new.retry_of, new.metadata, new.stream) == (job.id, {"run": "7"}, True)
    assert client.jobs.retry(job.id).id == new.id  # once, however often it is asked for
    assert client.jobs.get(job.id).retried_as == new.id
    assert client.wait(new.id, timeout_s=60).text.startswith(old.partial_text)


def test_what_is_not_over_or_unknown_is_not_run_again(client):
    job = client.submit(SLOW)
    with pytest.raises(errors.ConflictError) as conflict:
        client.jobs.retry(job.id)
    assert conflict.value.code == "job_not_finished"
    client.jobs.cancel(job.id)
    with pytest.raises(errors.NotFoundError) as unknown:
        client.jobs.retry("job_" + "0" * 32)
    assert unknown.value.code == "job_not_found"


def test_dead_jobs_are_listed_until_they_are_run_again(client):
    made = [timed_out(client) for _ in range(3)]
    assert {job.error.code for job in made} == {"timeout"}
    ids = {job.id for job in made}
    listed = {job.id for job in client.dead.list(code="timeout", model="simulated", page_size=2)}
    assert ids <= listed
    assert not ids & {job.id for job in client.dead.list(code="worker_lost")}
    running = client.submit(SLOW)
    report = client.dead.retry([*ids, running.id])
    assert {one.id for one in report.data if one.retried_as} == ids
    assert [one.error.code for one in report.data if one.error] == ["job_not_finished"]
    assert not ids & {job.id for job in client.dead.list()}
    again = client.dead.retry(ids)
    assert {one.id: one.retried_as for one in again.data} == {
        one.id: one.retried_as for one in report.data if one.retried_as
    }
    for one in again.data:
        assert client.wait(one.retried_as, timeout_s=60, check=False).retry_of == one.id


def test_the_worker_says_what_it_does(client):
    (worker,) = client.workers.list()
    assert (worker.state, worker.engine, worker.models) == ("ready", "simulated", ("simulated",))
    assert worker.id.startswith(f"{worker.name}-{worker.pid}-")
    with pytest.raises(errors.NotFoundError) as unknown:
        client.workers.drain("nobody@nowhere")
    assert unknown.value.code == "worker_not_found"


def test_the_command_line_from_a_dead_job_to_its_retry(stack):
    args = ("--max-tokens", "4000", "--run-timeout", "0.4s", "--queue-timeout", "1m")
    done = penstock(stack, "submit", "long", *args, "--wait")
    assert done.returncode == 1, done.stderr
    job = json.loads(done.stdout)
    assert (job["error"]["code"], job["timeout_s"], job["queue_timeout_s"]) == ("timeout", 0.4, 60)
    shown = penstock(stack, "jobs", "get", job["id"], "--text").stdout
    assert "an attempt 0.4 s" in shown
    dead = [
        json.loads(line) for line in penstock(stack, "jobs", "list", "--dead", "--all").stdout.splitlines()
    ]
    assert job["id"] in {item["id"] for item in dead}
    done = penstock(stack, "jobs", "retry", "--dead", "--all")
    assert (done.returncode, f"{len(dead)} job" in done.stderr) == (0, True), done.stderr
    became = {item["id"]: item["retried_as"] for item in map(json.loads, done.stdout.splitlines())}
    assert set(became) == {item["id"] for item in dead}
    done = penstock(stack, "jobs", "retry", job["id"], "--wait")
    new = json.loads(done.stdout)
    assert (done.returncode, new["id"], new["retry_of"]) == (1, became[job["id"]], job["id"])


def test_the_command_line_about_workers(stack):
    worker = json.loads(penstock(stack, "worker", "list").stdout)
    assert worker["state"] == "ready"
    shown = penstock(stack, "worker", "list", "--text").stdout
    assert worker["name"] in shown
    done = penstock(stack, "worker", "drain", "nobody@nowhere")
    assert (done.returncode, "worker_not_found" in done.stderr) == (4, True)
