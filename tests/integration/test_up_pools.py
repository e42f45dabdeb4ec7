"""``penstock up`` and ``penstock worker run`` with several workers, as a user meets them, on the simulated engine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from typing import Any

import psutil
import pytest
from redis import Redis

from broker.db.keys import Keys
from penstock import Penstock
from tests.integration.test_up import Up
from tests.processes import ROOT, descendants
from tests.support import wait_until

HOST = socket.gethostname()
FILE = """
default_model = "fast"
simulated_ttft_s = 0.01

[pools.chat]
model = "qwen-7b"
gpus = "0,1,2,3"
tensor_parallel = 2
aliases = ["fast"]
device = "NVIDIA H100 80GB HBM3"
device_memory_gb = 171

[pools.embed]
model = "bge"
"""
BODY = {"messages": [{"role": "user", "content": "hi"}]}


def test_a_file_of_pools(tmp_path):
    (tmp_path / "penstock.toml").write_text(FILE)
    one = Up(tmp_path, "--engine", "simulated", "--no-flower")
    try:
        one.until_ready()
        shown = one.out.read_text()
        assert "  worker  pool chat: 2 x engine simulated, model qwen-7b, also called fast\n" in shown
        assert "  worker  pool embed: engine simulated, model bge\n" in shown
        with Penstock(one.url) as client:
            names = {(worker.name, worker.pool) for worker in client.workers.list()}
            assert names == {
                (f"gpu0-1@{HOST}", "chat"),
                (f"gpu2-3@{HOST}", "chat"),
                (f"embed@{HOST}", "embed"),
            }
            # The api has looked at the workers before, and looks again within a second.
            wait_until(lambda: [model.id for model in client.models()] == ["fast", "bge", "qwen-7b"])
            job = client.wait(client.submit(BODY, placement={"min_memory_gb": 100}).id)
            assert (job.model, job.pool) == ("qwen-7b", "chat")
            assert client.wait(client.submit(BODY, model="bge").id).worker.startswith(f"embed@{HOST}")
        one.process.send_signal(signal.SIGINT)
        assert one.process.wait(60) == 0
        assert one.nothing_left()
    finally:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize(
    ("file", "args", "message"),
    [
        (
            "[pools.chat]\ntensor_paralel = 2\n",
            (),
            "penstock up: penstock.toml: [pools.chat] tensor_paralel: there is no such key; did you mean tensor_para",
        ),
        ("[pools.chat\n", (), "penstock up: penstock.toml cannot be read: Expected ']'"),
        (
            FILE,
            ("--model", "x"),
            "penstock up: --model is for one model, and penstock.toml has the pools chat, embed",
        ),
        (
            FILE.replace('"fast"', '"slow"', 1),
            (),
            "penstock up: bad setting default_model (PENSTOCK_DEFAULT_MODEL): no pool of penstock.toml serves 'slow'",
        ),
        (
            FILE.replace("0,1,2,3", "0,1,2"),
            (),
            "penstock up: penstock.toml: [pools.chat] the GPUs 0,1,2 make 1 group of 2, with 1 left over",
        ),
    ],
)
def test_what_is_wrong_with_the_file_is_one_message(tmp_path, file, args, message):
    (tmp_path / "penstock.toml").write_text(file)
    said = Up(tmp_path, "--engine", "simulated", *args).failure()
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_gpus_that_are_not_there_are_refused_before_anything_starts(tmp_path):
    said = Up(tmp_path, "--engine", "vllm", "--gpus", "97").failure()
    assert re.match(r"penstock up: there is no GPU 97 here; there is .*\n$", said)


class Workers:
    """One ``penstock worker run`` that stands for several."""

    def __init__(self, folder, settings, *args):
        self.log = folder / "worker.out"
        env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        argv = [sys.executable, "-P", "-m", "penstock", "worker", "run", "--engine", "simulated", *args]
        argv += ["--redis-url", settings.redis_url, "--namespace", settings.namespace]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                argv,
                cwd=folder,
                stdout=out,
                stderr=out,
                env={**env, "PYTHONPATH": str(ROOT), "PENSTOCK_REAP_INTERVAL_S": "0.5"},
            )
        self.redis: Any = Redis.from_url(settings.redis_url, decode_responses=True)
        self.keys = Keys(settings.namespace)

    def names(self):
        """The live workers, without the parts of their names that change."""
        return sorted(name.partition("@")[0] for name in self.redis.zrange(self.keys("leases"), 0, -1))

    def children(self):
        """The workers' processes by group, as each says its own pid: its command line is what Celery left of it."""
        family = {one.pid: one for one in descendants(self.process.pid)}
        live = self.redis.zrange(self.keys("leases"), 0, -1)
        infos = [self.redis.hget(self.keys("worker", name), "info") for name in live]
        said = [json.loads(info) for info in infos if info]  # none: buried since
        return {one["name"].partition("@")[0]: family[one["pid"]] for one in said if one["pid"] in family}

    def close(self):
        self.process.kill()
        self.process.wait()
        self.redis.close()


@pytest.fixture
def workers(tmp_path, broker_settings):
    started = []

    def start(*args):
        started.append(Workers(tmp_path, broker_settings, *args))
        return started[-1]

    yield start
    for one in started:
        one.close()


GROUPS = ("--gpus", "0,1,2,3", "--tensor-parallel", "2")


def test_one_process_for_each_group_and_one_that_dies_comes_back(workers):
    both = workers(*GROUPS)
    wait_until(lambda: f"2 workers are ready on {HOST}" in both.log.read_text(), 60)
    assert both.names() == ["gpu0-1", "gpu2-3"]
    family = both.children()
    assert set(family) == {"gpu0-1", "gpu2-3"}
    family["gpu2-3"].kill()
    wait_until(lambda: "worker-2 was killed by SIGKILL; starting it again" in both.log.read_text())
    wait_until(
        lambda: set(both.children()) == {"gpu0-1", "gpu2-3"} and both.names() == ["gpu0-1", "gpu2-3"], 60
    )
    assert both.children()["gpu2-3"].pid != family["gpu2-3"].pid
    family = both.children()
    both.process.send_signal(signal.SIGTERM)
    assert both.process.wait(60) == 0
    assert both.names() == []
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family.values())


def test_it_ends_when_all_of_them_were_drained(workers):
    both = workers(*GROUPS)
    wait_until(lambda: f"2 workers are ready on {HOST}" in both.log.read_text(), 60)
    wait_until(lambda: both.log.read_text().count("worker_ready") == 2)  # they take signals
    for child in both.children().values():
        child.terminate()
    assert both.process.wait(60) == 0
    assert both.log.read_text().count("has finished (status 0) and is not started again") == 2


def test_one_that_does_not_come_up_ends_it_with_its_words(workers, broker_settings):
    both = workers(*GROUPS, "--alias", "same")
    wait_until(lambda: f"2 workers are ready on {HOST}" in both.log.read_text(), 60)
    other = workers(*GROUPS, "--pool", "other", "--model", "m", "--alias", "same")
    assert other.process.wait(60) == 1
    said = other.log.read_text()
    assert "penstock worker: worker-" in said
    assert "the name 'same' means 'm' here, but 'simulated' at the worker gpu" in said
