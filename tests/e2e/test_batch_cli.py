"""`penstock batch run` against the real stack, and with everything embedded: stopped, killed, gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis

from penstock import Penstock
from tests.processes import ROOT, descendants
from tests.support import wait_until

pytestmark = pytest.mark.xdist_group("stack")

ENV = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")} | {"PYTHONPATH": str(ROOT)}
SLOW = {"PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.03"}
"""With 20 tokens a row and 256 at once: about 400 rows a second at the most."""


def start(folder, *args, url=None, **env):
    at = [] if url is None else ["--url", url]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "penstock", *at, "batch", *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENV | env,
    )


def finish(process, timeout_s=120):
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def state(folder, name):
    path = folder / "out.jsonl.penstock" / "state.json"
    return json.loads(path.read_bytes())[name] if path.exists() else None


def received(folder):
    return state(folder, "received") or 0


def ids(path):
    return [json.loads(line)["custom_id"] for line in path.read_bytes().split(b"\n") if line]


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "p.txt").write_text("".join(f"prompt {n}\n" for n in range(2000)))
    return tmp_path


def test_a_table_with_a_template_runs_on_a_server_and_is_checked(stack, tmp_path):
    table = pa.table({"doi": [f"d{n}" for n in range(300)], "text": [f"text {n}" for n in range(300)]})
    pq.write_table(table, tmp_path / "r.parquet")
    args = ("--template", "Summarise: {text}", "--id-field", "doi", "--max-tokens", "4")
    code, out, err = finish(start(tmp_path, "run", "r.parquet", "-o", "out.jsonl", *args, url=stack.url))
    assert code == 0, err
    told = json.loads(out)
    assert (told["total"], told["completed"], told["verified"], told["usage"]["output_tokens"]) == (
        300,
        300,
        True,
        1200,
    )
    assert ids(tmp_path / "out.jsonl") == [f"d{n}" for n in range(300)]
    code, out, _ = finish(start(tmp_path, "verify", "r.parquet", "out.jsonl", "--id-field", "doi"))
    assert (code, json.loads(out)["ok"]) == (0, True)
    code, out, _ = finish(start(tmp_path, "verify", told["batch"], url=stack.url))
    assert (code, json.loads(out)["ok"]) == (0, True)


def test_the_sdk_sees_a_batch_from_its_file_to_its_rows(stack, tmp_path):
    body = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    rows = [
        {"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for n in range(20)
    ]
    rows[7]["body"] = body | {"max_tokens": -1}
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Penstock(stack.url) as client:
        file = client.files.upload(tmp_path / "b.jsonl")
        assert b"".join(client.files.content(file.id)) == (tmp_path / "b.jsonl").read_bytes()
        batch = client.batches.create(file.id, metadata={"run": "7"})
        kinds = [event.type for event in client.batches.events(batch.id)]
        assert kinds[-1] == "completed"
        found = {row["custom_id"]: row for row in client.batches.results(batch.id, follow=True)}
        assert len(found) == 20
        ended = client.batches.wait(batch.id)
        assert (ended.request_counts.completed, ended.request_counts.failed) == (19, 1)
        assert found["c7"]["response"]["status_code"] == 400
        assert client.batches.verify(batch.id).ok
        child = client.batches.retry(batch.id)
        assert client.batches.wait(child.id).request_counts.total == 1
        assert client.batches.get(batch.id).retried_as == child.id


def test_watching_is_stopped_and_the_batch_on_the_server_goes_on(stack, prompts):
    # Some three seconds of work, so that it is in its midst when it is stopped.
    process = start(prompts, "run", "p.txt", "-o", "out.jsonl", "--max-tokens", "200", url=stack.url)
    with Penstock(stack.url) as client:
        batch_id = wait_until(lambda: state(prompts, "batch_id"), 60)
        wait_until(lambda: client.batches.get(batch_id).request_counts.completed > 0)
        client.batches.pause(batch_id)  # a busy machine may look on for longer than it takes
        wait_until(lambda: received(prompts) > 0)
        process.send_signal(signal.SIGINT)
        code, _, err = finish(process)
        assert (code, "the batch continues" in err) == (130, True), err
        client.batches.resume(batch_id)
    code, out, err = finish(start(prompts, "run", "-o", "out.jsonl", "--resume"))
    assert code == 0, err
    assert json.loads(out)["verified"]
    assert ids(prompts / "out.jsonl") == [f"row-{n}" for n in range(1, 2001)]


def test_results_that_are_stopped_continue_where_they_were(stack, prompts):
    with Penstock(stack.url) as client:
        submitted = start(prompts, "submit", "p.txt", "--max-tokens", "200", "--json", url=stack.url)
        code, out, err = finish(submitted)
        assert code == 0, err
        batch_id = json.loads(out)["id"]
        wait_until(lambda: client.batches.get(batch_id).request_counts.completed > 0)
        client.batches.pause(batch_id)
        command = ("results", batch_id, "--follow", "-o", "out.jsonl")
        process = start(prompts, *command, url=stack.url)
        wait_until((prompts / "out.jsonl.part.json").exists)
        process.send_signal(signal.SIGINT)
        code, _, err = finish(process)
        assert (code, "what came is kept in out.jsonl.part" in err) == (130, True)
        kept = len(ids(prompts / "out.jsonl.part"))
        assert 0 < kept < 2000
        client.batches.resume(batch_id)
        code, _, err = finish(start(prompts, *command, url=stack.url))
    assert (code, "continuing with what an earlier command left" in err) == (0, True)
    assert sorted(ids(prompts / "out.jsonl")) == sorted(f"row-{n}" for n in range(1, 2001))


def family(process):
    return set(descendants(process.pid))


def gone(processes):
    return not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_an_embedded_run_that_is_killed_leaves_no_process_and_goes_on_where_it_was(prompts):
    options = ("--embedded", "--engine", "simulated", "--max-tokens", "20")
    process = start(prompts, "run", "p.txt", "-o", "out.jsonl", *options, **SLOW)
    wait_until(lambda: received(prompts) > 0 or process.poll() is not None, 120)
    assert process.poll() is None, finish(process)
    before = received(prompts)
    assert before < 2000
    processes = family(process)
    assert len(processes) >= 5  # penstock up and its guardian, Valkey, the api, the worker
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    wait_until(lambda: gone(processes), 30)
    code, out, err = finish(start(prompts, "run", "-o", "out.jsonl", "--resume"))
    assert code == 0, err
    told = json.loads(out)
    assert (told["total"], told["completed"], told["verified"]) == (2000, 2000, True)
    assert sorted(one.name for one in prompts.iterdir()) == ["out.jsonl", "p.txt"]


def test_an_embedded_run_is_alone(valkey, tmp_path):
    """Whatever names a server that others share is left alone: settings file, compose's file, environment, secrets."""
    (tmp_path / "p.txt").write_text("one\ntwo\n")
    shared = f'redis_url = "{valkey.url}"\nnamespace = "shared"\nfiles_url = "{tmp_path}/bucket"\n'
    pools = 'default_model = "other"\n[api_keys]\nalice = "sk-alice"\n[pools.other]\nengine = "simulated"\n'
    (tmp_path / "penstock.toml").write_text(shared + pools)
    (tmp_path / ".env").write_text(f"PENSTOCK_REDIS_URL={valkey.url}\nPENSTOCK_NAMESPACE=shared\n")
    secrets = {"penstock_api_keys": "alice=sk-alice", "penstock_files_url": "s3://production/penstock"}
    folders = {"CREDENTIALS_DIRECTORY": tmp_path / "systemd", "PENSTOCK_SECRETS_DIR": tmp_path / "container"}
    for folder in folders.values():
        folder.mkdir()
        for name, text in secrets.items():
            (folder / name).write_text(text)
    env = {name: str(folder) for name, folder in folders.items()} | {
        "PENSTOCK_REDIS_URL": valkey.url,
        "PENSTOCK_NAMESPACE": "shared",
        "PENSTOCK_FILES_URL": "s3://production/penstock",
        "PENSTOCK_ENGINE": "openai",
        "PENSTOCK_WORKERS": "2",
        "PENSTOCK_POOL": "other",
        "PENSTOCK_MODLE": "typo",
        "PENSTOCK_API_KEYS": "alice=sk-alice",
        "QUEUE_MODE": "reject",
    }
    options = ("--embedded", "--engine", "simulated", "--max-tokens", "2")
    code, out, err = finish(start(tmp_path, "run", "p.txt", "-o", "out.jsonl", *options, **env))
    assert code == 0, err
    assert json.loads(out)["completed"] == 2
    with Redis.from_url(valkey.url) as client:
        assert list(client.scan_iter("*shared*")) == []
    left = sorted(one.name for one in tmp_path.iterdir())
    assert left == [".env", "container", "out.jsonl", "p.txt", "penstock.toml", "systemd"]


def test_an_embedded_server_that_does_not_start_is_said_and_leaves_nothing(tmp_path):
    (tmp_path / "p.txt").write_text("one\n")
    args = ("--embedded", "--engine", "simulated", "--concurrency", "9999")
    code, _, err = finish(start(tmp_path, "run", "p.txt", "-o", "out.jsonl", *args))
    assert (code, "the embedded server did not start: bad setting concurrency" in err) == (3, True), err
    assert [one.name for one in tmp_path.iterdir()] == ["p.txt"]


def test_an_embedded_worker_that_does_not_start_leaves_its_log_and_blocks_no_other_command(tmp_path):
    (tmp_path / "p.txt").write_text("one\n")
    args = ("run", "p.txt", "-o", "out.jsonl", "--embedded", "--engine", "openai", "--max-tokens", "2")
    code, _, err = finish(start(tmp_path, *args, "--model", "/no/such", "--openai-base-url", "nonsense"))
    assert code == 3, err
    log = tmp_path / "out.jsonl.penstock" / "server" / "logs" / "worker.log"
    assert (str(log) in err, log.exists()) == (True, True), err
    # Its rows were sent to nobody, so another command may have its place.
    code, _, err = finish(start(tmp_path, *args, "--model", "m", PENSTOCK_OPENAI_API_KEY="a b"))
    assert (code, "bad setting openai_api_key" in err) == (3, True), err
    assert [one.name for one in tmp_path.iterdir()] == ["p.txt"]
