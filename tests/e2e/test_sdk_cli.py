"""The SDK and the command line against the real api and a worker with the simulated engine.

``stack`` gives ``.url``, the address of the running api; the model is ``simulated``. Its engine must take
about 2 ms a token (``PENSTOCK_SIMULATED_INTER_TOKEN_S=0.002``), or the jobs to cancel are done before that.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from penstock import AsyncPenstock, Penstock, errors

pytestmark = pytest.mark.xdist_group("stack")

ROOT = Path(__file__).parents[2]
BODY = {"model": "simulated", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 16}
LONG = BODY | {"max_tokens": 4000}


@pytest.fixture
def client(stack):
    with Penstock(stack.url) as made:
        yield made


def penstock(stack, *args, stdin="", **env):
    env = os.environ | {"PENSTOCK_URL": stack.url, "PYTHONPATH": str(ROOT)} | env
    argv = [sys.executable, "-m", "penstock", *args]
    return subprocess.run(
        argv, env=env, input=stdin, capture_output=True, text=True, check=False, timeout=120
    )


def test_ready_and_serving(client):
    assert client.health().ready
    assert "simulated" in [model.id for model in client.models()]


def test_submit_wait_result(client):
    job = client.submit(BODY, metadata={"run": "7"}, priority="high")
    done = client.wait(job.id, timeout_s=60)
    assert (done.id, done.state, done.metadata, done.priority) == (job.id, "succeeded", {"run": "7"}, "high")
    assert done.text
    assert done.usage.completion_tokens > 0
    assert done.timings.total_ms >= done.timings.queue_ms >= 0
    assert client.jobs.result(job.id) == done.result
    assert client.jobs.get(job.id) == done


def test_submit_that_waits_brings_the_result(client):
    assert client.submit(BODY, wait_s=60).text


def test_streamed_text_is_the_result(client):
    job = client.submit(BODY, stream=True)
    streamed = "".join(client.stream(job.id))
    assert streamed == client.wait(job.id, timeout_s=60).text != ""
    assert "".join(client.stream(job.id)) == streamed


def test_each_event_has_its_own_cursor_and_resumes_there(client):
    job = client.submit(BODY, stream=True)
    events = list(client.jobs.events(job.id))
    assert events[-1].type == "succeeded"
    assert len({event.id for event in events}) == len(events)
    text = "".join(event.text for event in events)
    for place, event in enumerate(events):
        # A replay may join deltas, so what is compared is the text.
        rest = list(client.jobs.events(job.id, after=event.id))
        seen = "".join(event.text for event in events[: place + 1])
        assert seen + "".join(event.text for event in rest) == text
        assert [event.type for event in rest[-1:]] == ["succeeded"][: len(events) - 1 - place]


def test_a_job_without_deltas_streams_as_one_piece(client):
    job = client.submit(BODY)
    assert "".join(client.stream(job.id)) == client.jobs.result(job.id)["choices"][0]["message"]["content"]


def test_the_same_key_is_the_same_job_and_another_body_a_conflict(client):
    key = uuid4().hex
    first = client.submit(BODY, idempotency_key=key)
    assert client.submit(BODY, idempotency_key=key).id == first.id
    with pytest.raises(errors.ConflictError) as caught:
        client.submit(BODY | {"max_tokens": 17}, idempotency_key=key)
    assert caught.value.code == "idempotency_conflict"


def test_cancel_ends_a_running_job(client):
    job = client.submit(LONG, stream=True)
    for event in client.jobs.events(job.id):
        if event.type == "running":
            client.jobs.cancel(job.id)
    assert client.jobs.get(job.id).state == "cancelled"
    with pytest.raises(errors.JobCancelledError):
        client.wait(job.id, timeout_s=60)


def test_refusals_have_their_class_and_code(client):
    with pytest.raises(errors.NotFoundError) as caught:
        client.jobs.get("job_" + "0" * 32)
    assert caught.value.code == "job_not_found"
    with pytest.raises(errors.NotFoundError) as caught:
        client.submit(BODY | {"model": "no-such-model"})
    assert caught.value.code == "model_not_found"
    with pytest.raises(errors.BadRequestError):
        client.submit(BODY, priority="realtime")


def test_list_pages_through_what_was_submitted(client):
    made = [client.submit(BODY).id for _ in range(5)]
    newest = [job.id for job in client.jobs.list(limit=5, page_size=2)]
    assert newest == made[::-1]
    first = client.jobs.get(made[0])
    found = {
        job.id for job in client.jobs.list(created_after=first.created_at - 0.001, order="asc", page_size=2)
    }
    assert set(made) <= found


@pytest.mark.asyncio
async def test_many_at_once_with_the_async_client(stack):
    async with AsyncPenstock(stack.url) as client:

        async def one():
            job = await client.submit(BODY, stream=True)
            text = "".join([piece async for piece in client.stream(job.id)])
            return text == (await client.wait(job.id)).text != ""

        assert await asyncio.gather(*(one() for _ in range(32))) == [True] * 32


def test_the_command_line_from_submit_to_cancel(stack):
    done = penstock(stack, "submit", "hello", "--wait", "--max-tokens", "8", "--metadata", "a=b")
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert (job["state"], job["metadata"]) == ("succeeded", {"a": "b"})
    text = job["result"]["choices"][0]["message"]["content"]
    assert penstock(stack, "jobs", "wait", job["id"], "--text").stdout == text + "\n"
    assert json.loads(penstock(stack, "jobs", "get", job["id"], "--result").stdout) == job["result"]
    done = penstock(stack, "submit", "hello", "--stream", "--text", "--max-tokens", "8")
    assert (done.returncode, bool(done.stdout.strip())) == (0, True)
    assert "tok/s" in done.stderr
    assert (
        penstock(stack, "queue", "pause", "default").returncode == 0
    )  # or it may end before it is cancelled
    job_id = json.loads(penstock(stack, "submit", "long", "--max-tokens", "4000").stdout)["id"]
    assert penstock(stack, "jobs", "cancel", job_id).returncode == 0
    assert penstock(stack, "queue", "resume", "default").returncode == 0
    assert penstock(stack, "jobs", "wait", job_id, "--timeout", "1m").returncode == 1
    listed = penstock(stack, "jobs", "list", "-n", "3").stdout.splitlines()
    assert json.loads(listed[0])["id"] == job_id
    assert len(listed) == 3


def test_the_command_lines_refusals(stack):
    assert penstock(stack, "jobs", "get", "job_" + "0" * 32).returncode == 4
    done = penstock(stack, "submit", "hello", "--model", "no-such-model")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert penstock(stack, "status", "--health").returncode == 0
    done = penstock(stack, "jobs", "cancel", "job_" + "0" * 32, "..", "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["exit_code"]) == (2, 2)
    done = penstock(stack, "files", "get", "file-gone", "--json")
    found = json.loads(done.stderr)["error"]
    assert (done.returncode, found["code"], found["status"]) == (4, "file_not_found", 404)


def test_one_that_is_not_there_stops_no_other(stack):
    first, second = (json.loads(penstock(stack, "submit", "x").stdout)["id"] for _ in range(2))
    gone = "job_" + "0" * 32
    done = penstock(stack, "jobs", "wait", first, gone, second)
    assert done.returncode == 4
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [first, second]
    assert done.stderr.startswith("penstock: 404 job_not_found")
    assert gone in done.stderr


def test_a_prompt_from_stdin_and_a_limit_of_waiting(stack):
    done = penstock(stack, "submit", "--wait", "--text", "--max-tokens", "8", stdin="q\n")
    assert (done.returncode, bool(done.stdout.strip())) == (0, True)
    done = penstock(stack, "submit", "x", "--max-tokens", "4000", "--wait", "--timeout", "0.5s", "--json")
    failed = json.loads(done.stderr)["error"]
    assert (done.returncode, failed["kind"]) == (5, "WaitTimeoutError")
    assert penstock(stack, "jobs", "cancel", failed["message"].split()[0]).returncode == 0


def test_a_command_finds_the_server_of_its_folder(stack):
    done = penstock(
        stack, "status", "--health", "--text", PENSTOCK_URL="", PENSTOCK_DATA_DIR=str(stack.data_dir)
    )
    assert (done.returncode, f"{stack.url} is ready" in done.stdout) == (0, True)
