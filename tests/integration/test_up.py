"""``penstock up`` as a user meets it, on the simulated engine: ready, serving, stopped, none left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from penstock import Penstock, StreamRestartedError
from tests.processes import ROOT, descendants
from tests.support import free_port, wait_until

BODY = {"model": "simulated", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


class Up:
    """One ``penstock up``, in a folder of its own."""

    def __init__(self, folder, *args, **settings):
        self.port, self.flower_port = free_port(), free_port()
        self.out, self.err, self.logs = folder / "out", folder / "err", folder / "data" / "logs"
        argv = ["up", "--port", self.port, "--flower-port", self.flower_port, "--data-dir", "data", *args]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "penstock", *map(str, argv)],
                cwd=folder,
                stdout=out,
                stderr=err,
                env={**env, "PYTHONPATH": str(ROOT), **settings},
            )
        self.url = f"http://127.0.0.1:{self.port}"
        self.family: set[psutil.Process] = set()

    def printed(self, text):
        return text in self.out.read_text()

    def until_ready(self):
        line = f"penstock is ready on {self.url}\n"
        wait_until(lambda: self.printed(line) or self.process.poll() is not None, 60)
        assert self.printed(line), self.err.read_text()
        self.family = set(descendants(self.process.pid))

    def child(self, name):
        """The api's process by its command line; the worker's by what it says, for Celery writes over its command line."""
        family = descendants(self.process.pid)
        if name == "worker":
            with Penstock(self.url) as client:
                (pid,) = [worker.pid for worker in client.workers.list()]
            found = [one for one in family if one.pid == pid]
        else:
            found = [one for one in family if f"{name} --" in " ".join(one.cmdline())]
        assert len(found) == 1, found
        return found[0]

    def failure(self):
        assert self.process.wait(60) == 1
        return self.err.read_text()

    def nothing_left(self):
        return not [one for one in self.family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def penstock(folder, *args):
    """Run a command in a folder that has its data in ``data``."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "penstock", *args],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), "PENSTOCK_DATA_DIR": "data"},
        capture_output=True,
        text=True,
        check=False,
    )


def starter(folder):
    started = []

    def start(*args, **settings):
        started.append(Up(folder, "--engine", "simulated", *args, **settings))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()  # everything else goes with it: see the test of that
        one.process.wait()


@pytest.fixture
def up(tmp_path):
    yield from starter(tmp_path)


@pytest.fixture(scope="module")
def up_for_all(tmp_path_factory):
    """Starts in a folder with the settings that ``penstock init`` writes."""
    folder = tmp_path_factory.mktemp("up")
    assert penstock(folder, "init", "--engine", "simulated").returncode == 0
    yield from starter(folder)


@pytest.fixture(scope="module")
def shared(up_for_all):
    """One that several tests use: each leaves it serving."""
    one = up_for_all("--no-flower")
    one.until_ready()
    return one


def command_line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended
        return ""


def complete(url):
    answer = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_serves_until_ctrl_c_and_leaves_nothing(up):
    one = up()
    one.until_ready()
    complete(one.url)
    assert httpx.get(f"http://127.0.0.1:{one.flower_port}/").status_code == 200
    assert httpx.get(one.url).json()["links"]["flower"] == f"http://127.0.0.1:{one.flower_port}"
    for what in ("api", "flower", "redis", "worker", "logs"):
        assert re.search(rf"^  {what} +\S", one.out.read_text(), re.MULTILINE)
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(40) == 0
    assert one.printed("stopped\n")
    assert one.nothing_left()
    assert one.err.read_text() == ""


def test_it_starts_with_what_init_wrote_and_doctor_finds_nothing_wrong(shared):
    folder = shared.out.parent
    assert 'engine = "simulated"' in (folder / "penstock.toml").read_text()
    complete(shared.url)
    done = penstock(folder, "doctor", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["summary"]["fail"]) == (0, 0), done.stdout
    found = {(one["area"], one["name"]): one for one in said["findings"]}
    assert found["ports", "api"]["said"] == f"penstock up of this folder serves at {shared.url}"
    assert "(embedded)" in found["redis", "reachable"]["said"]
    assert found["redis", "functions"]["level"] == found["server", "health"]["level"] == "ok"


def test_api_keys_and_tenants_from_penstock_toml(up, tmp_path):
    (tmp_path / "penstock.toml").write_text(
        'max_active = 2\n[api_keys]\nalice = "sk-alice"\n[tenants.alice]\nweight = 3\n'
    )
    one = up("--no-flower")
    one.until_ready()
    assert httpx.post(f"{one.url}/v1/chat/completions", json=BODY, timeout=30).status_code == 401
    with Penstock(one.url, api_key="sk-alice") as client:
        assert client.wait(client.submit(BODY).id, 30).done
        (pool,) = client.pools.list()
        assert (pool.max_active, pool.slots > 2) == (2, True)
    assert httpx.get(f"{one.url}/health/ready").status_code == 200
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(40) == 0


def test_with_keys_it_makes_a_pepper_and_a_key_and_finds_both_again(up, tmp_path):
    one = up("--no-flower", "--require-keys")
    one.until_ready()
    folder = tmp_path / "data"
    key = (folder / "admin.key").read_text().strip()
    assert one.out.read_text().count(key) == 1
    for name in ("admin.key", "pepper"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    jobs, admin = f"{one.url}/v1/jobs", {"authorization": f"Bearer {key}"}
    assert httpx.get(jobs).status_code == 401
    assert httpx.get(jobs, headers=admin).status_code == 200
    env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}

    def penstock(*args, **more):
        argv = [sys.executable, "-P", "-m", "penstock", *args]
        env_ = {**env, "PYTHONPATH": str(ROOT), "PENSTOCK_DATA_DIR": "data", **more}
        return subprocess.run(argv, cwd=tmp_path, env=env_, capture_output=True, text=True, check=False)

    made = penstock("keys", "create", "--tenant", "alice", "--json")  # it finds the address and the key
    assert made.returncode == 0, made.stderr
    alice = {"authorization": f"Bearer {json.loads(made.stdout)['key']}"}
    assert penstock("keys", "list", PENSTOCK_API_KEY="psk_wrong").returncode == 4
    assert penstock("keys", "list", PENSTOCK_URL="http://127.0.0.1:1").returncode == 3
    direct = penstock("keys", "list", "--direct", "--json")
    assert len(direct.stdout.splitlines()) == 2
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(40) == 0
    again = up("--no-flower", "--require-keys")
    again.until_ready()
    wait_until(lambda: again.printed("API keys are required"))
    assert not again.printed(key)
    assert (folder / "admin.key").read_text().strip() == key
    for headers in (admin, alice):
        assert httpx.get(f"{again.url}/v1/jobs", headers=headers).status_code == 200


def test_killed_it_takes_everything_with_it_and_its_jobs_go_on_at_the_next_start(up):
    one = up("--no-flower", **SLOW)
    one.until_ready()
    assert len(one.family) >= 5  # the guardian, the server, the api, the coordinator, the worker
    with Penstock(one.url) as client:
        job = client.submit(LONG, stream=True)
        assert next(client.stream(job.id))
    one.process.kill()
    wait_until(one.nothing_left)
    again = up("--no-flower", **SLOW)
    again.until_ready()  # the data folder is free again
    with Penstock(again.url) as client:
        # Its worker is known to be dead: nobody waits for the lease.
        wait_until(lambda: client.jobs.get(job.id).attempt == 2, LEASE_TTL_S / 4)
        assert client.jobs.get(job.id).history[0]["reason"] == "worker_lost"


@pytest.mark.parametrize("victim", ["api", "coordinator", "worker"])
def test_a_process_that_dies_comes_back(shared, victim):
    one = shared

    def workers():
        return {said["id"] for said in httpx.get(f"{one.url}/v1/workers", timeout=5).json()["data"]}

    dead = workers() if victim == "worker" else set()
    one.child(victim).kill()
    wait_until(lambda: one.printed(f"{victim} was killed by SIGKILL; starting it again in 1 s"))

    def serves():
        try:
            ready = httpx.get(f"{one.url}/health/ready", timeout=5).status_code == 200
            alive = workers()
            return ready and alive and alive.isdisjoint(dead)  # what is ready may be a second old
        except httpx.TransportError:
            return False

    wait_until(serves, 30)
    wait_until(lambda: one.printed(f"{victim} serves again"))
    assert complete(one.url)["choices"]


def test_a_second_one_on_the_same_folder_is_refused(shared, tmp_path):
    folder = shared.out.parent / "data"
    message = Up(tmp_path, "--engine", "simulated", "--no-flower", "--data-dir", folder).failure()
    assert message.startswith(f"penstock up: the data folder {folder} is in use by another Penstock")
    complete(shared.url)


LEASE_TTL_S = 60
SLOW = {
    "PENSTOCK_LEASE_TTL_S": str(LEASE_TTL_S),
    "PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.01",
    "PENSTOCK_REAP_INTERVAL_S": "0.5",
    "PENSTOCK_BATCH_LEASE_S": str(LEASE_TTL_S),
}
LONG = BODY | {"max_tokens": 2000}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """One with two workers; the last test that uses it drains one of them."""
    for start in starter(tmp_path_factory.mktemp("pair")):
        one = start("--no-flower", "--workers", "2", **SLOW)
        one.until_ready()
        yield one


def test_two_workers_although_one_was_killed_before_both_were_ready(up):
    one = up("--no-flower", "--workers", "2", **SLOW)
    found = wait_until(
        lambda: [child for child in descendants(one.process.pid) if "worker-2" in command_line(child)]
    )
    found[0].kill()
    one.until_ready()
    assert one.printed("worker-2 was killed by SIGKILL; starting it again in 1 s")
    with Penstock(one.url) as client:
        assert len(client.workers.list()) == 2
        assert found[0].pid not in {worker.pid for worker in client.workers.list()}


def test_two_workers(pair):
    assert (pair.logs / "worker-1.log").exists()
    assert (pair.logs / "worker-2.log").exists()


def a_running_stream(client):
    """Submit a long job to two workers; return it and its text, once some of it has come."""
    wait_until(lambda: len(client.workers.list()) == 2)
    job = client.submit(LONG, stream=True)
    text = client.stream(job.id)
    assert next(text)
    return job, text


def test_the_jobs_of_a_killed_worker_are_taken_over_at_once_not_after_its_lease(pair):
    with Penstock(pair.url) as client:
        job, text = a_running_stream(client)
        first = client.jobs.get(job.id).worker
        (victim,) = [worker for worker in client.workers.list() if worker.id == first]
        os.kill(victim.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        with pytest.raises(StreamRestartedError) as caught:
            list(text)
        took_s = time.monotonic() - killed_at
        now = client.jobs.get(job.id)
        assert (caught.value.attempt, now.attempt, now.state) == (2, 2, "running")
        assert [(gone["worker"], gone["reason"]) for gone in now.history] == [(first, "worker_lost")]
        assert now.worker.partition("@")[0] != victim.name.partition("@")[0]
        assert took_s < LEASE_TTL_S / 4, "the lease was waited for"
        assert next(client.stream(job.id, after=caught.value.event_id))
        client.jobs.cancel(job.id)
        # It comes back, as another incarnation.
        wait_until(lambda: {worker.name for worker in client.workers.list()} >= {victim.name}, 30)
        assert first not in {worker.id for worker in client.workers.list()}


def test_the_batches_of_a_killed_coordinator_go_on_at_once_not_after_its_lease(pair, tmp_path):
    rows = tmp_path / "rows.jsonl"
    line = {"method": "POST", "url": "/v1/chat/completions", "body": BODY | {"max_tokens": 100}}
    rows.write_text("".join(json.dumps(line | {"custom_id": str(n)}) + "\n" for n in range(4)))
    with Penstock(pair.url) as client:
        batch = client.batches.create(client.files.upload(rows).id)
        wait_until(lambda: client.batches.get(batch.id).status == "in_progress")
        pair.child("coordinator").kill()
        killed_at = time.monotonic()
        wait_until(lambda: client.batches.get(batch.id).done, LEASE_TTL_S)
        assert time.monotonic() - killed_at < LEASE_TTL_S / 4, "the lease was waited for"
        counts = client.batches.get(batch.id).request_counts
        assert (counts.completed, counts.total) == (4, 4)


def test_a_drained_worker_stays_away_and_its_jobs_go_on(pair):
    one = pair
    one.family = set(descendants(one.process.pid))
    with Penstock(one.url) as client:
        job, text = a_running_stream(client)
        name = client.jobs.get(job.id).worker.rsplit("-", 2)[0]
        began = time.monotonic()
        (told,) = client.workers.drain(name, timeout_s=0.5)
        assert (told.name, told.state) == (name, "draining")
        with pytest.raises(StreamRestartedError):
            list(text)
        now = client.jobs.get(job.id)
        assert [gone["reason"] for gone in now.history] == ["released"]
        assert not now.worker.startswith(name)
        short = name.partition("@")[0]
        wait_until(lambda: one.printed(f"{short} has finished (status 0) and is not started again\n"))
        assert time.monotonic() - began < LEASE_TTL_S / 4
        assert name not in {worker.name for worker in client.workers.list()}
        assert complete(one.url)["choices"]
        client.jobs.cancel(job.id)
    one.process.send_signal(signal.SIGINT)
    assert one.process.wait(60) == 0
    assert one.nothing_left()


def test_a_taken_port_is_one_message(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        one = Up(tmp_path, "--engine", "simulated", "--port", taken.getsockname()[1])
        message = one.failure()
    assert re.fullmatch(r"penstock up: port \d+ on 127.0.0.1 is taken, .*name another with --port\n", message)
    assert one.out.read_text() == ""


def test_a_bad_setting_is_one_message(tmp_path):
    message = Up(tmp_path, "--engine", "simulated", "--workers", "0").failure()
    assert message.startswith("penstock up: bad setting workers (--workers or PENSTOCK_WORKERS): ")
    assert message.count("\n") == 1


@pytest.mark.parametrize("name", ["batch_chunk_rows", "max_wait_s"])
def test_a_bad_setting_of_the_coordinator_or_the_api_is_one_message(tmp_path, name):
    one = Up(tmp_path, "--engine", "simulated", **{f"PENSTOCK_{name.upper()}": "-1"})
    message = one.failure()
    assert message.startswith(f"penstock up: bad setting {name} (PENSTOCK_{name.upper()}): ")
    assert message.count("\n") == 1
    assert one.out.read_text() == ""  # no process was started


def test_an_unreachable_redis_is_one_message(tmp_path):
    message = Up(tmp_path, "--engine", "simulated", "--redis-url", "redis://127.0.0.1:1/0").failure()
    assert message.startswith("penstock up: cannot reach Redis at redis://127.0.0.1:1/0: ")
    assert message.count("\n") == 1


def test_an_engine_that_does_not_load_is_its_own_message(tmp_path):
    one = Up(tmp_path, "--engine", "vllm", "--model", "/no/such/model", "--no-flower")
    message = one.failure()
    assert message.startswith("penstock up: worker ended (status 1) before it was ready:\n")
    assert "/no/such/model" in message
    assert message.endswith(f"its log: {one.logs / 'worker.log'}\n")
