"""Redis with mutual TLS: each process under its own user, and through Sentinel; without a certificate nobody gets in."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flower.utils.broker import Broker
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from broker.celery.app import make_celery
from broker.db.client import connect_sync, ping
from broker.db.errors import StoreUnavailableError
from broker.db.keys import Keys
from broker.settings import BrokerSettings
from jobs.lanes import Lane
from penstock.server.guardian import die_with_parent
from tests.aclserver import AclServer
from tests.apiserver import ApiServer
from tests.batching import jsonl, row
from tests.certificates import Mutual
from tests.environment import clean
from tests.forked import ForkedProcess
from tests.integration.test_redis_acl import answers
from tests.processes import ROOT, ApiProcess, CoordinatorProcess, WorkerProcess
from tests.servers import OLDEST_AND_EMBEDDED, ServerVersion
from tests.support import eventually, free_port, wait_until

REDIS = next(one.values[0] for one in OLDEST_AND_EMBEDDED if one.id == "redis-7.0")
MISSING = next(one.marks for one in OLDEST_AND_EMBEDDED if one.id == "redis-7.0")
pytestmark = [*MISSING, pytest.mark.asyncio]

CHAT = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


@pytest.fixture
def mutual(tmp_path: Path) -> Mutual:
    return Mutual(tmp_path)


@pytest.fixture
def server(mutual: Mutual, tmp_path: Path) -> Iterator[AclServer]:
    (tmp_path / "acl").mkdir()
    with AclServer(tmp_path / "acl", version=REDIS, tls=mutual) as server:
        yield server


async def test_who_shows_no_certificate_or_trusts_no_authority_gets_nothing(
    server: AclServer, mutual: Mutual
) -> None:
    ping(server.url("monitoring"))
    alone = server.url("monitoring").partition("?")[0]
    for wrong in (alone, f"{alone}?{mutual.trusting}", alone.replace("rediss://", "redis://")):
        with pytest.raises(StoreUnavailableError) as told:
            ping(wrong)
        assert "secret-of-monitoring" not in str(told.value)


async def test_every_process_works_under_its_user(server: AclServer, tmp_path: Path) -> None:
    files = {"files_url": str(tmp_path / "files")}

    def settings(user: str) -> BrokerSettings:
        return BrokerSettings(redis_url=server.url(user))

    api = ApiProcess(settings("api"), tmp_path / "api.log", free_port(), **files)
    worker = WorkerProcess(settings("worker"), tmp_path / "worker.log", **files)
    coordinator = CoordinatorProcess(settings("coordinator"), tmp_path / "coordinator.log", **files)
    port = free_port()
    flower = ForkedProcess(
        "penstock.server.flower:run_flower",
        {"overrides": {"redis_url": server.url("flower")}, "address": "127.0.0.1", "port": port},
        tmp_path / "flower.log",
        ROOT,
        clean() | {"FLOWER_UNAUTHENTICATED_API": "true"},
    )
    try:
        with (
            httpx.Client(base_url=api.url, timeout=30) as http,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as dashboard,
        ):
            wait_until(lambda: answers(http, "/health/ready"), 60)
            assert http.post("/v1/chat/completions", json=CHAT).json()["choices"]
            streamed = http.post("/v1/chat/completions", json=CHAT | {"stream": True})
            assert streamed.text.endswith("data: [DONE]\n\n")
            upload: Any = {"file": ("in.jsonl", jsonl(row(n) for n in range(3))), "purpose": (None, "batch")}
            file_id = http.post("/v1/files", files=upload).json()["id"]
            asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            batch = http.post("/v1/batches", json=asked).json()["id"]
            wait_until(lambda: http.get(f"/v1/batches/{batch}").json()["status"] == "completed", 40)
            wait_until(lambda: answers(dashboard, "/healthcheck"), 60)
            queues = dashboard.get("/api/queues/length").json()["active_queues"]
            assert {one["name"] for one in queues} >= {"penstock.default.normal"}
    finally:
        flower.kill()
        for process in (api, worker, coordinator):
            process.close()
    assert server.refused() == set()


class Watched:
    """A master and a replica under one sentinel, all with mutual TLS."""

    def __init__(self, folder: Path, mutual: Mutual) -> None:
        self._folder, self._mutual = folder, mutual
        self.ports = [free_port(), free_port()]
        self._sentinel = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = f"rediss+sentinel://127.0.0.1:{self._sentinel}/mine/0?{mutual.query}"

    def start(self) -> None:
        master, replica = self.ports
        self._run(master)
        self._run(replica, "--replicaof", "127.0.0.1", str(master), "--repl-diskless-sync-delay", "0")
        conf = self._folder / "sentinel.conf"
        conf.write_text(
            f"sentinel monitor mine 127.0.0.1 {master} 1\nsentinel down-after-milliseconds mine 2000\n"
        )
        self._run(self._sentinel, "--sentinel", conf=conf)

    def _run(self, port: int, *flags: str, conf: Path | None = None) -> None:
        version: ServerVersion = REDIS
        argv = [str(version.started_by), *([str(conf)] if conf else []), *self._mutual.server_flags(port)]
        argv += ["--bind", "127.0.0.1", "--dir", str(self._folder), "--save", "", *flags]
        with (self._folder / f"{port}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(argv, stdout=log, stderr=log, preexec_fn=die_with_parent())  # noqa: PLW1509
            )

    def sentinel(self) -> Redis:
        return Redis.from_url(
            f"rediss://127.0.0.1:{self._sentinel}?{self._mutual.query}", decode_responses=True
        )

    def watches(self) -> bool:
        try:
            with self.sentinel() as client:
                return client.sentinel_masters()["mine"]["num-slaves"] == 1
        except (RedisConnectionError, RedisError):
            return False

    def master(self) -> int:
        with connect_sync(self.url) as client:
            client.ping()
            return int(client.connection_pool.get_connection().port)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.mark.full
async def test_sentinel_and_its_master_over_tls(tmp_path: Path, mutual: Mutual) -> None:
    fleet = Watched(tmp_path, mutual)
    worker = None
    try:
        fleet.start()
        await eventually(fleet.watches, 40)
        settings = BrokerSettings(redis_url=fleet.url)
        log = tmp_path / "worker.log"
        worker = WorkerProcess(settings, log)
        with ApiServer(settings) as api:
            async with api.client() as http:
                await eventually(lambda: "worker_ready" in log.read_text())
                assert (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200

                app = make_celery(fleet.url, settings.namespace)
                queue = Keys(settings.namespace)("queue", "default", Lane.NORMAL)
                broker = Broker(
                    app.connection_for_read().as_uri(include_password=True),
                    broker_options=app.conf.broker_transport_options,
                    broker_use_ssl=app.conf.broker_use_ssl,
                )
                (seen,) = await broker.queues([queue])
                await broker.redis.connection_pool.sentinel_manager.aclose()
                assert seen["messages"] == 0

                with fleet.sentinel() as client:
                    client.execute_command("SENTINEL", "FAILOVER", "mine")
                await eventually(lambda: fleet.master() == fleet.ports[1], 40)

                async def answered() -> bool:
                    return (await http.post("/v1/chat/completions", json=CHAT)).status_code == 200

                await eventually(answered, 40)
    finally:
        if worker is not None:
            worker.close()
        fleet.stop()
