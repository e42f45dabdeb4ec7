"""Every process under a Redis user of its own: a whole round works, and beyond it nothing does."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from broker.db.acl import ADMIN, ROLES
from broker.db.client import connect
from broker.db.errors import MixedFleetStartError
from broker.jobs import JobStore
from broker.migration import prepare
from broker.settings import BrokerSettings
from tests.aclserver import AclServer
from tests.batching import jsonl, row
from tests.forked import ForkedProcess
from tests.processes import ROOT, ApiProcess, CoordinatorProcess, WorkerProcess
from tests.servers import OLDEST_AND_EMBEDDED
from tests.support import free_port, wait_until

QUICK: dict[str, Any] = {"lease_ttl_s": 60.0, "heartbeat_s": 0.3, "reap_interval_s": 0.2}


@pytest.fixture(scope="module", params=OLDEST_AND_EMBEDDED)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AclServer]:
    with AclServer(tmp_path_factory.mktemp("acl"), version=request.param) as server:
        yield server


@dataclass(frozen=True)
class Round:
    """The processes, each under its own user."""

    server: AclServer
    http: httpx.Client
    flower: httpx.Client
    worker: WorkerProcess
    folder: Path

    def settings(self, user: str) -> BrokerSettings:
        return BrokerSettings(redis_url=self.server.url(user))

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def submit(self, **body: Any) -> str:
        asked = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], **body}
        return self.post("/v1/jobs", {"input": asked})["id"]

    def end(self, job_id: str) -> str:
        """Wait for a job's end; return the state that it has then."""

        def ended() -> str | None:
            state = self.http.get(f"/v1/jobs/{job_id}", params={"wait": 10}).json()["state"]
            return None if state in {"queued", "running"} else state

        return wait_until(ended, 60)


@pytest.fixture(scope="module")
def round_(server: AclServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    folder = tmp_path_factory.mktemp("round")
    files = {"files_url": str(folder / "files")}

    def settings(user: str) -> BrokerSettings:
        return BrokerSettings(redis_url=server.url(user))

    api = ApiProcess(settings("api"), folder / "api.log", free_port(), **QUICK, **files)
    worker = WorkerProcess(
        settings("worker"), folder / "worker.log", **QUICK, **files, simulated_inter_token_s=0.005
    )
    coordinator = CoordinatorProcess(settings("coordinator"), folder / "coordinator.log", **files)
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    flower = ForkedProcess(
        "penstock.server.flower:run_flower",
        {"overrides": {"redis_url": server.url("flower")}, "address": "127.0.0.1", "port": port},
        folder / "flower.log",
        ROOT,
        env | {"FLOWER_UNAUTHENTICATED_API": "true"},
    )
    processes = [api, worker, coordinator]
    with (
        httpx.Client(base_url=api.url, timeout=30) as http,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as dashboard,
    ):
        try:
            wait_until(lambda: answers(http, "/health/ready"), 60)
            wait_until(lambda: answers(dashboard, "/healthcheck"), 60)
            yield Round(server, http, dashboard, worker, folder)
        finally:
            flower.kill()
            for process in processes:
                process.close()
    assert server.refused() == set()


def answers(http: httpx.Client, path: str) -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx.HTTPError:
        return False


def test_calls_and_jobs(round_: Round) -> None:
    ask = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    assert round_.post("/v1/chat/completions", ask)["choices"]
    with round_.http.stream("POST", "/v1/chat/completions", json=ask | {"stream": True}) as stream:
        assert list(stream.iter_lines())[-2] == "data: [DONE]"
    done, running = round_.submit(max_tokens=3), round_.submit(max_tokens=20_000)
    assert round_.end(done) == "succeeded"
    round_.post(f"/v1/jobs/{running}/cancel")
    assert round_.end(running) == "cancelled"
    again = round_.post(f"/v1/jobs/{running}/retry")["id"]
    round_.post(f"/v1/jobs/{again}/cancel")
    assert round_.end(again) == "cancelled"
    assert round_.server.refused() == set()


def test_the_queues_levers(round_: Round) -> None:
    round_.post("/v1/queues/default/pause")
    waiting = round_.submit(max_tokens=3)
    assert round_.http.patch(f"/v1/jobs/{waiting}", json={"priority": "low"}).is_success
    assert round_.http.delete("/v1/queues/default/low").is_success
    assert round_.end(waiting) == "cancelled"
    round_.post("/v1/queues/default/resume")
    assert round_.http.get("/v1/queues").is_success
    assert "redis_up 1.0" in round_.http.get("/metrics").text
    assert round_.server.refused() == set()


def test_a_batch(round_: Round) -> None:
    file = {"file": ("in.jsonl", jsonl([row(n) for n in range(20)]))}
    uploaded = round_.http.post("/v1/files", files=file, data={"purpose": "batch"}).json()["id"]
    ask = {"input_file_id": uploaded, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = round_.post("/v1/batches", ask)["id"]
    wait_until(lambda: round_.http.get(f"/v1/batches/{batch}").json()["status"] == "completed", 30)
    assert round_.http.get(f"/v1/batches/{batch}/verify").is_success
    assert round_.http.delete(f"/v1/files/{uploaded}").is_success
    assert round_.server.refused() == set()


def test_webhooks(round_: Round) -> None:
    path = "/v1/webhooks/" + round_.post("/v1/webhooks", {"url": "https://hooks.example.invalid"})["id"]
    round_.post(f"{path}/rotate")
    done = round_.submit(max_tokens=3)
    assert round_.end(done) == "succeeded"

    def failed() -> list[Any]:
        return list(round_.http.get(f"{path}/deliveries").json()["data"])

    wait_until(failed, 30)
    assert failed()[0]["event"]["object_id"] == done
    round_.post(f"{path}/deliveries/{failed()[0]['event']['id']}/resend")
    assert round_.http.patch(path, json={"state": "disabled"}).is_success
    assert round_.http.patch(path, json={"state": "active"}).is_success
    assert round_.http.get("/v1/webhooks/secret").is_success
    assert round_.http.delete(path).json()["deleted"]
    assert round_.server.refused() == set()


def test_flower_sees_and_revokes(round_: Round) -> None:
    running = round_.submit(max_tokens=20_000)
    wait_until(lambda: answers(round_.flower, f"/api/task/info/{running}"))
    # A busy worker may miss the second that Flower gives it to answer.
    wait_until(lambda: round_.flower.get("/api/workers", params={"refresh": 1}).json())
    lengths = round_.flower.get("/api/queues/length").json()["active_queues"]
    assert "penstock.default.normal" in {one["name"] for one in lengths}
    assert round_.flower.post(f"/api/task/revoke/{running}", params={"terminate": "true"}).is_success
    assert round_.end(running) == "cancelled"
    assert round_.server.refused() == set()


def test_a_lost_worker_and_a_drain(round_: Round) -> None:
    running = round_.submit(max_tokens=50)
    round_.worker.signal(signal.SIGKILL)
    round_.worker.wait()
    with round_.server.client(ADMIN) as client:  # its lease ends: nobody waits for that
        client.zadd("penstock:leases", dict.fromkeys(client.zrange("penstock:leases", 0, -1), 0), xx=True)
    second = WorkerProcess(round_.settings("worker"), round_.folder / "w2.log", "w2", **QUICK)
    try:
        assert round_.end(running) == "succeeded"
        names = [one["name"] for one in round_.http.get("/v1/workers").json()["data"]]
        (alive,) = (name for name in names if "w2" in name)  # the first may have died before it had the job
        round_.post(f"/v1/workers/{alive}/drain")
        assert second.wait() == 0
    finally:
        second.close()
    assert round_.server.refused() == set()


@pytest.mark.parametrize(
    "command",
    [
        ["FLUSHALL"],
        ["CONFIG", "GET", "*"],
        ["ACL", "LIST"],
        ["KEYS", "*"],
        ["MONITOR"],
        ["SHUTDOWN"],
        ["FUNCTION", "FLUSH"],
        ["FUNCTION", "DUMP"],
        ["SCAN", "0"],
        ["CLIENT", "KILL", "TYPE", "normal"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("user", ROLES)
def test_no_role_administers(server: AclServer, user: str, command: list[str]) -> None:
    with server.client(user) as client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)
    server.refused()


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("api", ["DEL", "penstock:leases"]),
        ("api", ["EVAL", "return redis.call('DEL', 'penstock:leases')", "0"]),
        ("api", ["HSET", "penstock:worker:w", "info", "{}"]),
        ("api", ["HSET", "penstock:models", "default m", "{}"]),
        ("api", ["BLPOP", "penstock:pool:default:bell", "0.1"]),
        ("coordinator", ["ZREM", "penstock:leases", "w"]),
        ("coordinator", ["HSET", "penstock:models", "default m", "{}"]),
        ("worker", ["ZADD", "penstock:coordinators", "1", "c"]),
        ("worker", ["DEL", "penstock:file:f"]),
        ("flower", ["HGETALL", "penstock:job:j"]),
        ("flower", ["LPUSH", "penstock.default.normal", "{}"]),
        ("flower", ["LPUSH", "penstock:pool:default:bell", "1"]),
        ("flower", ["FCALL", "cancel", "0"]),
        ("monitoring", ["FUNCTION", "LIST"]),
        ("monitoring", ["EXISTS", "penstock:jobs"]),
        ("api", ["GET", "other:job:j"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_role_stays_in_its_part(server: AclServer, user: str, command: list[str]) -> None:
    with (
        server.client(user) as client,
        pytest.raises(redis.exceptions.ResponseError, match=r"(?i)no perm|can't access"),
    ):
        client.execute_command(*command)
    server.refused()


def test_without_a_user_there_is_nothing(server: AclServer) -> None:
    with server.client(None) as client, pytest.raises(redis.exceptions.AuthenticationError):
        client.ping()


@pytest.mark.parametrize("user", sorted(name for name, role in ROLES.items() if role.prepares))
def test_who_may_not_take_over_data_is_told_who_may(tmp_path: Path, user: str) -> None:
    with AclServer(tmp_path) as server:
        with server.client("admin") as client:
            client.sadd("penstock:queues", "penstock.default.normal")
        settings = BrokerSettings(redis_url=server.url(user))

        async def start() -> None:
            store = JobStore(connect(settings.redis_url), settings)
            try:
                await prepare(store)
            finally:
                await store.aclose()

        with pytest.raises(MixedFleetStartError, match=r"users\.acl.* as admin only"):
            asyncio.run(start())
