"""The system under test: one Valkey, apis, a coordinator and workers, on real processes, watched and started again.

Two apis and two workers by default, hence four reapers. Leases are short, so that a takeover takes seconds.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.db.keys import Keys
from jobs.lanes import Lane
from penstock.server.valkey import EmbeddedServer
from tests.chaos.children import Child, Life, clean_env
from tests.support import eventually, free_port

NAMESPACE = "chaos"
TICK_S = 0.05

COMMON = {
    "namespace": NAMESPACE,
    "reap_interval_s": 0.5,
    "catalogue_refresh_s": 0.3,
    "retention_s": 1800,
    "shutdown_grace_s": 1,
    "sse_ping_s": 2,
    "drain_timeout_s": 1.5,
    "batch_lease_s": 2.0,
    "webhook_timeout_s": 2.0,
    "webhook_allow_http": True,
    "webhook_allow_private": "127.0.0.0/8",
}
ENGINES: dict[str, dict[str, Any]] = {
    "simulated": {
        "lease_ttl_s": 5.0,  # a worker on a busy machine may stand still for a while, beside a pause that is meant
        "heartbeat_s": 0.6,
        "simulated_ttft_s": 0.05,
        "simulated_inter_token_s": 0.02,
        "simulated_capacity": 32,
    },
    "vllm": {"lease_ttl_s": 6.0, "heartbeat_s": 1.0, "concurrency": 16, "drain_timeout_s": 3},
}


class Stack:
    """Everything that runs, and the hand that keeps it running.

    Args:
        folder: data, logs and journal; kept.
        engine: ``simulated`` or ``vllm``.
        workers: how many.
        apis: how many.
        settings: over the defaults above, by name.
    """

    def __init__(
        self, folder: Path, *, engine: str = "simulated", workers: int = 2, apis: int = 2, **settings: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.engine = engine
        self.settings: dict[str, Any] = COMMON | ENGINES[engine] | settings
        self.keys = Keys(NAMESPACE)
        self.journal = folder / "journal.jsonl"
        self.redis_faults: list[tuple[float, float]] = []
        self.draw: Callable[[Child], str] | None = None
        self._server = EmbeddedServer(folder / "data", tcp=True)
        self._server.prepare()
        self._thaw_at: dict[str, float] = {}
        self._supervisor: asyncio.Task[None] | None = None
        self._events = (folder / "events.jsonl").open("a")
        fds = (self._server.lock_fd,)
        self.redis = Child("valkey", lambda: self._server.argv, clean_env(), folder, fds)
        env = clean_env(
            redis_url=self._server.url,
            engine=engine,
            data_dir=folder / "data",
            simulated_journal=self.journal,
            **self.settings,
        )
        if engine == "vllm":  # several on one machine, perhaps a small one
            env |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        self.ports = {f"api{n}": free_port() for n in range(1, apis + 1)}
        self.apis = [
            Child(name, partial(_command, "api", f"--port={port}"), env, folder)
            for name, port in self.ports.items()
        ]
        self.coordinators = [Child("coordinator", partial(_command, "coordinator"), env, folder)]
        names = [f"w{n}" for n in range(1, workers + 1)]
        self.workers = [
            Child(name, partial(_command, "worker", "run", f"--name={name}"), env, folder) for name in names
        ]

    @property
    def url(self) -> str:
        """Redis's address."""
        return self._server.url

    @property
    def lease_ttl_s(self) -> float:
        """How long a worker may be silent."""
        return float(self.settings["lease_ttl_s"])

    @property
    def children(self) -> list[Child]:
        """Apis, the coordinator and workers."""
        return [*self.apis, *self.coordinators, *self.workers]

    @property
    def lives(self) -> list[Life]:
        """Every incarnation of every child."""
        return [life for child in self.children for life in child.lives]

    @property
    def urls(self) -> list[str]:
        """The apis' addresses."""
        return [f"http://127.0.0.1:{port}" for port in self.ports.values()]

    def admin(self, timeout_s: float = 5.0) -> Redis:
        """Make a client that neither waits long nor tries twice; close it after use."""
        return Redis.from_url(
            self.url, decode_responses=True, socket_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )

    def note(self, what: str, **facts: Any) -> None:
        """Write down what happened, for whoever looks into a failure."""
        self._events.write(json.dumps({"time": time.time(), "what": what, **facts}, default=str) + "\n")
        self._events.flush()

    @contextmanager
    def redis_away(self) -> Iterator[None]:
        """Remember for how long Redis could not be used."""
        begun = time.time()
        try:
            yield
        finally:
            self.redis_faults.append((begun, time.time()))

    async def start_redis(self) -> None:
        """Start Redis on its folder and port, and wait until it has read its file."""
        self.redis.start()
        await asyncio.to_thread(self._server.wait_ready, self.redis.poll, 60.0)

    async def __aenter__(self) -> Self:
        try:
            await self.start_redis()
            for child in self.children:
                child.start()
            self._supervisor = asyncio.create_task(self._supervise(), name="supervisor")
            await self.ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every process."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        for child in [*self.children, self.redis]:
            child.end()
        self._server.release()
        self._events.close()

    async def _supervise(self) -> None:
        """Start again what ended, thaw what froze at a failpoint."""
        while True:
            now = time.time()
            for child in self.children:
                self._look_after(child, now)
            await asyncio.sleep(TICK_S)

    def _look_after(self, child: Child, now: float) -> None:
        if child in self.workers and child.life.ready is None and "worker_ready" in child.output():
            child.life.ready = now
        if child.armed and not child.life.reached:
            child.look()
        if child.lives and child.life.status is None and child.poll() is not None:
            life = child.life
            self.note("ended", name=life.name, pid=life.pid, status=life.status, fates=life.fates)
            child.respawn_at = max(child.respawn_at, now)
        elif child.frozen and "stop" in child.life.reached.values() and "frozen" not in child.life.fates:
            child.life.fates["frozen"] = now
            self._thaw_at[child.name] = now + self.lease_ttl_s + 1.5
            self.note("frozen", name=child.name, pid=child.life.pid)
        elif child.frozen and now > self._thaw_at.get(child.name, float("inf")):
            del self._thaw_at[child.name]
            child.signal(signal.SIGCONT)
        elif not child.alive and child.wanted and now >= child.respawn_at:
            self.restart(child, self.draw(child) if self.draw else "")

    def restart(self, child: Child, failpoints: str = "") -> None:
        """Start a child that has ended."""
        child.poll()
        child.start(failpoints)
        self.note("started", name=child.name, pid=child.life.pid, failpoints=failpoints)

    async def rearm(self, failpoints: dict[Child, str]) -> None:
        """Start some children anew, each with failpoints, and wait until they serve. For a stack without load.

        What faults have left in the lanes is popped before, lest it set off the failpoints.
        """
        await eventually(self.lanes_are_empty, 60.0)
        for child, points in failpoints.items():
            child.end()
            self.restart(child, points)
        await self.ready()

    def lanes_are_empty(self) -> bool:
        """Whether no message lies in any lane."""
        with self.admin() as client:
            return not any(client.llen(self.keys("queue", "default", lane)) for lane in Lane)

    async def ready(self, timeout_s: float | None = None) -> None:
        """Wait until every process that is wanted serves."""
        timeout_s = timeout_s or (60.0 if self.engine == "simulated" else 300.0)
        for worker in self.workers:
            if worker.wanted:
                await eventually(partial(self.holds_lease, worker), timeout_s)
        for coordinator in self.coordinators:
            if coordinator.wanted:
                await eventually(partial(self.coordinates, coordinator), timeout_s)
        async with httpx.AsyncClient(timeout=5.0) as client:
            for url, api in zip(self.urls, self.apis, strict=True):
                if api.wanted:
                    await eventually(partial(_answers, client, url), timeout_s)

    def holds_lease(self, worker: Child) -> bool:
        """Whether the worker's present process consumes, and is registered with a live lease."""
        if worker.life.ready is None:
            return False
        with self.admin() as client:
            now_ms = client.time()[0] * 1000
            for name in client.zrangebyscore(self.keys("leases"), now_ms, "+inf"):
                info = json.loads(client.hget(self.keys("worker", name), "info") or "{}")
                if info.get("pid") == worker.life.pid:
                    return True
        return False

    def coordinates(self, coordinator: Child) -> bool:
        """Whether the coordinator's present process has a live lease."""
        with self.admin() as client:
            now_ms = client.time()[0] * 1000
            said = client.zrangebyscore(self.keys("coordinators"), now_ms, "+inf")
        return any(json.loads(one)["pid"] == coordinator.life.pid for one in said)

    def jobs_held(self) -> dict[Child, int]:
        """How many jobs each worker has now."""
        with self.admin() as client:
            names = client.zrange(self.keys("leases"), 0, -1)
            jobs = {int(name.split("-")[-2]): client.scard(self.keys("worker_jobs", name)) for name in names}
        return {worker: jobs.get(worker.life.pid, 0) for worker in self.workers}

    async def heal(self) -> None:
        """Bring back whatever is down, without failpoints, and wait until all of it serves."""
        self.draw = None
        if not self.redis.alive:
            await self.start_redis()
        self.redis.signal(signal.SIGCONT)
        with self.admin() as client:
            client.config_set("maxmemory", 0)
            client.execute_command("REPLICAOF", "NO", "ONE")
        for child in self.children:
            if child.frozen:
                child.signal(signal.SIGCONT)
            child.wanted = True
        await self.ready()


def _command(*args: str) -> list[str]:
    return [sys.executable, "-m", "penstock", *args]


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health/ready")).status_code == 200
    except httpx.TransportError:
        return False
