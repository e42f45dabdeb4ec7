"""Redis Sentinel: every process takes the one address, and follows the master wherever it goes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from flower.utils.broker import Broker
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from broker.celery.app import make_celery
from broker.db.client import connect, connect_sync, ping
from broker.db.errors import StoreUnavailableError
from broker.db.keys import Keys
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from penstock.server.guardian import die_with_parent
from penstock.server.valkey import binary
from tests.apiserver import ApiServer
from tests.pace import Pace
from tests.processes import WorkerProcess
from tests.support import eventually, free_port, wait_until

pytestmark = [pytest.mark.asyncio, pytest.mark.full]

PASSWORD, SENTINEL_PASSWORD = "of the/data", "of-the-sentinels"
NAME = "mymaster"


class Fleet:
    """Two Valkey servers, master and replica, watched by three sentinels; every one has a password."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.data = [free_port(), free_port()]
        self.sentinels = [free_port() for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        password = PASSWORD.replace(" ", "%20").replace("/", "%2F")
        self.url = f"sentinel://:{password}@{hosts}/{NAME}/0?sentinel_password={SENTINEL_PASSWORD}"

    def start(self) -> None:
        self.start_data(self.data[0])
        self.start_data(self.data[1], replica_of=self.data[0])
        for port in self.sentinels:
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"requirepass {SENTINEL_PASSWORD}",
                f"sentinel sentinel-pass {SENTINEL_PASSWORD}",
                f"sentinel monitor {NAME} 127.0.0.1 {self.data[0]} 2",
                f'sentinel auth-pass {NAME} "{PASSWORD}"',
                f"sentinel down-after-milliseconds {NAME} 2000",  # a busy machine stalls for one
                f"sentinel failover-timeout {NAME} 4000",
            ]
            self._run(port, lines, "--sentinel")
        for port in self.sentinels:
            wait_until(partial(self._knows_all, port))

    def start_data(self, port: int, replica_of: int = 0) -> None:
        lines = [
            f"port {port}",
            "bind 127.0.0.1",
            f'requirepass "{PASSWORD}"',
            f'masterauth "{PASSWORD}"',
            'save ""',
            "appendonly yes",
            f'appenddirname "aof-{port}"',
            "repl-diskless-sync-delay 0",
        ]
        self._run(port, lines, *(["--replicaof", f"127.0.0.1 {replica_of}"] if replica_of else []))

    def _run(self, port: int, lines: list[str], *flags: str) -> None:
        conf = self._folder / f"{port}.conf"
        if not conf.exists():  # a server rewrites its own when its role changes
            conf.write_text("\n".join([f'dir "{self._folder}"', *lines]) + "\n")
        with (self._folder / f"{port}.log").open("ab") as log:
            self._processes[port] = subprocess.Popen(
                [str(binary()), str(conf), *flags],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - as in penstock/server/valkey.py
            )

    def _knows_all(self, port: int) -> bool:
        try:
            with Redis(port=port, password=SENTINEL_PASSWORD) as sentinel:
                state = sentinel.sentinel_masters()[NAME]
        except RedisConnectionError:
            return False
        return (state["num-slaves"], state["num-other-sentinels"]) == (1, 2)

    @property
    def master(self) -> int:
        """The port of the master, as the servers see it."""
        roles = {}
        for port in self.data:
            try:
                with Redis(port=port, password=PASSWORD) as client:
                    roles[client.execute_command("ROLE")[0]] = port
            except RedisError:
                continue
        return roles.get(b"master", 0)

    def kill(self, port: int) -> None:
        self._processes[port].send_signal(signal.SIGKILL)
        self._processes[port].wait()

    def fail_over(self) -> None:
        """Swap the roles with everybody alive: the old master is demoted."""
        with Redis(port=self.sentinels[-1], password=SENTINEL_PASSWORD) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", NAME, "COORDINATED")

    def seen_healthy(self, replica: int) -> bool:
        """Whether the sentinel that is to fail over has seen the replica up."""
        with Redis(port=self.sentinels[-1], password=SENTINEL_PASSWORD) as sentinel:
            seen = {s["port"]: s for s in sentinel.sentinel_slaves(NAME)}
        return replica in seen and seen[replica]["flags"] == "slave" and not seen[replica]["is_disconnected"]

    def agreed(self) -> bool:
        """Whether every sentinel sees the same master, up: after a failover the others hear of it one by one."""
        seen = set()
        for port in self.sentinels:
            with Redis(port=port, password=SENTINEL_PASSWORD) as sentinel:
                state = sentinel.sentinel_masters()[NAME]
            seen.add((state["port"], state["flags"]))
        return seen == {(self.master, "master")}

    def synced(self) -> bool:
        """Whether the replica has everything, so that nothing is lost with the master."""
        with Redis(port=self.master, password=PASSWORD) as client:
            return bool(client.execute_command("WAIT", 1, 1000) == 1)

    def stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("sentinel"))
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()


@pytest.fixture(scope="module")
def settings(fleet: Fleet) -> BrokerSettings:
    return BrokerSettings(redis_url=fleet.url)


@pytest_asyncio.fixture
async def store(settings: BrokerSettings) -> AsyncIterator[JobStore]:
    store = JobStore(connect(settings.redis_url), settings)
    yield store
    await store.aclose()


@pytest_asyncio.fixture
async def http(settings: BrokerSettings, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An api with a worker of eight slots."""
    log = tmp_path / "w1.log"
    worker = WorkerProcess(settings, log, concurrency=8, simulated_inter_token_s=0.02)
    try:
        with ApiServer(settings) as api:
            async with api.client() as client:
                await eventually(lambda: "worker_ready" in log.read_text() or worker.process.poll())
                yield client
        assert worker.process.poll() is None, log.read_text()
    finally:
        worker.close()


def job(text: str, tokens: int) -> dict[str, object]:
    body = {"model": "simulated", "messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    return {"input": body}


async def done(http: httpx.AsyncClient, job_id: str) -> bool:
    got = await http.get(f"/v1/jobs/{job_id}")
    return got.status_code == 200 and got.json()["state"] == "succeeded"


async def submit(http: httpx.AsyncClient, text: str = "hi", tokens: int = 3) -> str:
    """Submit as a client does that heeds 503 and Retry-After."""
    while True:
        got = await http.post("/v1/jobs", json=job(text, tokens), headers={"idempotency-key": text})
        if got.status_code == 202:
            return str(got.json()["id"])
        assert got.status_code == 503, got.text
        await asyncio.sleep(min(1, int(got.headers["retry-after"])))


async def goes_on(http: httpx.AsyncClient, fleet: Fleet, change, text: str) -> float:
    """Have the master changed under load; return seconds until a new job has run, with every earlier one done."""
    await submit(http, f"{text} first")
    jobs = [await submit(http, f"{text} {n}", tokens=100) for n in range(8)]  # 2 s each
    await eventually(fleet.synced)
    await eventually(fleet.agreed)
    before = fleet.master
    started = time.monotonic()
    change()
    await eventually(lambda: fleet.master not in {0, before})
    new = await submit(http, f"{text} new")
    await eventually(lambda: done(http, new), 30)
    took = time.monotonic() - started
    for job_id in jobs:
        await eventually(partial(done, http, job_id), 30)
    return took


async def test_clients_find_the_master(fleet: Fleet, settings: BrokerSettings, store: JobStore) -> None:
    ping(fleet.url)
    with connect_sync(fleet.url) as client:
        assert client.execute_command("ROLE")[0] == b"master"
    await store.now_ms()
    fleet.kill(fleet.sentinels[0])
    ping(fleet.url)
    await store.client.connection_pool.disconnect()
    await store.now_ms()
    fleet._run(fleet.sentinels[0], [], "--sentinel")
    unknown = fleet.url.replace(NAME, "other")
    with pytest.raises(StoreUnavailableError, match="No master found for 'other'") as caught:
        ping(unknown)
    assert PASSWORD not in str(caught.value)
    assert SENTINEL_PASSWORD not in str(caught.value)


async def test_jobs_go_on_after_the_masters_death_and_after_its_demotion(
    fleet: Fleet, http: httpx.AsyncClient
) -> None:
    dead, pace = fleet.master, Pace()
    took = await goes_on(http, fleet, lambda: fleet.kill(dead), "killed")
    assert took < pace.stretch(15.0)

    fleet.start_data(dead, replica_of=fleet.master)
    await eventually(fleet.synced)
    await eventually(lambda: fleet.seen_healthy(dead))
    took = await goes_on(http, fleet, fleet.fail_over, "demoted")
    assert took < pace.stretch(15.0)
    assert fleet.master == dead


async def test_flower_reads_the_queues_through_the_sentinels(fleet: Fleet, settings: BrokerSettings) -> None:
    app = make_celery(settings.redis_url, settings.namespace)
    queue = Keys(settings.namespace)("queue", "flower", Lane.NORMAL)
    await eventually(fleet.agreed)
    with connect_sync(fleet.url) as client:
        client.lpush(queue, "a", "b")
        broker = Broker(
            app.connection_for_read().as_uri(include_password=True),
            broker_options=app.conf.broker_transport_options,
        )
        (seen,) = await broker.queues([queue])
        await broker.redis.connection_pool.sentinel_manager.aclose()  # which Flower leaves to the end
        assert (seen["name"], seen["messages"]) == (queue, 2)
        client.delete(queue)
