"""New versions of a model under ``penstock up``, under load: no call fails, no job is lost, no answer is of two versions."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from redis import Redis

from broker.settings import BrokerSettings
from penstock import ConflictError, Penstock
from penstock.rollout_models import Rollout
from tests.integration.test_up import Up
from tests.support import wait_until

MODEL = "chat"
PROMPT = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 24}
ARGS = ("--engine", "simulated", "--no-flower", "--model", MODEL)
SLOW = {"PENSTOCK_SIMULATED_INTER_TOKEN_S": "0.005", "PENSTOCK_ROLLOUT_DRAIN_S": "20"}


class Load:
    """Callers who wait, streams and jobs, until it is told to end. It remembers the texts, and what failed."""

    def __init__(self, url: str, callers: int = 3) -> None:
        self.url = url
        self.texts: Counter[str] = Counter()
        self.failed: list[BaseException] = []
        self.jobs: list[str] = []
        self._end = threading.Event()
        kinds = (self._call, self._stream, self._submit)
        self._threads = [threading.Thread(target=self._run, args=(kinds[n % 3],)) for n in range(callers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self, act: Any) -> None:
        with Penstock(self.url, max_retries=0) as client:
            while not self._end.is_set():
                try:
                    act(client)
                except BaseException as error:
                    self.failed.append(error)
                    return

    def _call(self, client: Penstock) -> None:
        self.texts[client.wait(client.submit(PROMPT).id).text] += 1

    def _stream(self, client: Penstock) -> None:
        self.texts["".join(client.stream(client.submit(PROMPT, stream=True).id))] += 1

    def _submit(self, client: Penstock) -> None:
        self.jobs.append(client.submit(PROMPT, priority="low").id)
        time.sleep(0.02)


def until(client: Penstock, pool: str, *states: str, timeout_s: float = 60) -> Rollout:
    wait_until(lambda: client.rollouts.get(pool).state in states, timeout_s)
    return client.rollouts.get(pool)


def text_now(client: Penstock) -> str:
    return str(client.wait(client.submit(PROMPT).id).text)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    one = Up(tmp_path_factory.mktemp("rollouts"), *ARGS, **SLOW)
    try:
        one.until_ready()
        yield one
    finally:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def client(up: Up) -> Iterator[Penstock]:
    with Penstock(up.url) as made:
        yield made


@pytest.mark.parametrize("mode", ["surge", pytest.param("no_surge", marks=pytest.mark.full)])
def test_there_and_back_under_load(up: Up, client: Penstock, mode: str) -> None:
    before = text_now(client)
    with Load(up.url) as load:
        begun = client.rollouts.start("default", f"weights-{mode}", mode=mode)
        assert begun.state == "starting"
        with pytest.raises(ConflictError, match="under way"):
            client.rollouts.start("default", "another")
        there = until(client, "default", "done", "failed")
        assert (there.state, there.current.model) == ("done", f"weights-{mode}"), there.message
        after = text_now(client)
        assert after != before
        assert client.rollouts.back("default").target == there.previous
        assert until(client, "default", "done", "failed").state == "done"
    assert load.failed == []
    assert set(load.texts) == {before, after}  # each wholly of one version
    ended = [client.wait(job) for job in load.jobs]
    assert {job.state for job in ended} == {"succeeded"}
    texts = {one.pool: one.text for one in ended}
    assert texts[there.current.pool] == after
    assert {worker.pool for worker in client.workers.list()} == {"default"}


def test_other_weights_in_place(up: Up, client: Penstock) -> None:
    before, pid = text_now(client), client.workers.list()[0].pid
    with Load(up.url) as load:
        client.rollouts.start("default", "weights-of-another-unlike", mode="in_place")
        failed = until(client, "default", "done", "failed")
        assert (failed.state, failed.target) == ("failed", None)
        assert "other shapes" in (failed.message or "")
        assert text_now(client) == before
        client.rollouts.start("default", "weights-of-another", mode="in_place")
        there = until(client, "default", "done", "failed")
        assert (there.state, there.current.pool) == ("done", "default"), there.message
        after = text_now(client)
        client.rollouts.back("default")
        assert until(client, "default", "done", "failed").state == "done"
        assert text_now(client) == before
    assert load.failed == []
    assert set(load.texts) == {before, after}
    assert {client.wait(job).state for job in load.jobs} == {"succeeded"}
    assert client.workers.list()[0].pid == pid


def test_a_queue_that_a_death_left_open_is_closed(up: Up, client: Penstock) -> None:
    """The process that carried a rollout out may die before it says that calls need not wait any more."""
    wait_until(lambda: client.rollouts.get("default").state != "starting")
    with Redis(unix_socket_path=str(up.logs.parent / "valkey" / "valkey.sock")) as redis:
        redis.hset("penstock:pool:default", "held", "1")
        wait_until(lambda: not redis.hexists("penstock:pool:default", "held"))


@pytest.mark.full
def test_the_way_back_while_the_old_version_ends_and_a_death_of_its_worker(up: Up, client: Penstock) -> None:
    before = text_now(client)
    with Load(up.url) as load:
        long = client.submit(PROMPT | {"max_tokens": 2000}).id  # the old version ends after that: ten seconds
        wait_until(lambda: client.jobs.get(long).state == "running")
        client.rollouts.start("default", "another-one")
        until(client, "default", "moving", "failed")
        after = text_now(client)
        (old,) = [worker for worker in client.workers.list() if worker.pool == "default"]
        os.kill(old.pid, signal.SIGKILL)
        wait_until(
            lambda: client.jobs.get(long).state == "running" and client.jobs.get(long).attempt == 2, 30
        )
        client.rollouts.back("default")
        back = until(client, "default", "done", "failed")
        assert (back.state, back.current.pool) == ("done", "default"), back.message
        assert client.wait(long).state == "succeeded"
        assert text_now(client) == before
    assert set(load.texts) <= {before, after}
    assert {client.wait(job).state for job in load.jobs} == {"succeeded"}
    assert [worker.pool for worker in client.workers.list()] == ["default"]


@pytest.mark.full
def test_after_a_death_the_version_that_serves_comes_back(tmp_path: Path) -> None:
    one = Up(tmp_path, *ARGS, **SLOW)
    try:
        one.until_ready()
        with Penstock(one.url) as client:
            first = text_now(client)
            waiting = [client.submit(PROMPT).id for _ in range(20)]
            client.rollouts.start("default", "other")
            wait_until(lambda: client.rollouts.get("default").state in {"moving", "done"}, 30)
        one.process.kill()  # in the middle of it
        one.process.wait()
        one = Up(tmp_path, *ARGS, **SLOW)
        one.until_ready()
        assert one.printed("the pool default serves its version default-v2 (other)")
        with Penstock(one.url) as client:
            assert until(client, "default", "done").current.pool == "default-v2"
            assert {client.wait(job).state for job in waiting} == {"succeeded"}
            assert text_now(client) != first
        one.process.send_signal(signal.SIGINT)
        assert one.process.wait(60) == 0
        assert one.nothing_left()
        one = Up(tmp_path, *ARGS, "--as-configured", **SLOW)
        one.until_ready()
        with Penstock(one.url) as client:
            assert text_now(client) == first
    finally:
        one.process.kill()
        one.process.wait()


@pytest.mark.full
def test_two_machines_on_one_queue_end_with_the_same_version(
    tmp_path: Path, broker_settings: BrokerSettings
) -> None:
    """One of the two carries the rollout out; the other follows when the new version serves."""
    settings = {
        "PENSTOCK_REDIS_URL": broker_settings.redis_url,
        "PENSTOCK_NAMESPACE": broker_settings.namespace,
    }
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    both = [Up(folder, *ARGS, **SLOW, **settings) for folder in folders]
    try:
        for one in both:
            one.until_ready()
        with Penstock(both[0].url) as client, Load(both[1].url) as load:
            wait_until(lambda: len(client.workers.list()) == 2)
            client.rollouts.start("default", "other")
            assert until(client, "default", "done", "failed").state == "done"
            wait_until(lambda: [one.pool for one in client.workers.list()] == ["default-v2"] * 2, 30)
        assert load.failed == []
        with Penstock(both[1].url) as client:
            assert {client.wait(job).state for job in load.jobs} == {"succeeded"}
    finally:
        for one in both:
            one.process.kill()
            one.process.wait()
