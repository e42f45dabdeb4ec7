"""One version's job store, as `scripts.py` drives it, and the process that does so.

A side runs in a process of its own, with the code of its version first on its path. It reads what to measure from its
input, a JSON line at a time, and answers each with one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop
from _commandstats import Meter
from _scripts_parts import PARTS
from redis import Redis

from broker.db.client import connect
from broker.jobs import JobStore
from broker.reaper import reap_forever
from broker.settings import BrokerSettings
from jobs.ids import make_job_id
from jobs.lanes import Lane
from jobs.model import JobSpec, Usage
from jobs.states import JobState
from penstock.server.valkey import EmbeddedServer

SINK = "bench-api"
BODY = json.dumps(
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "You answer in one short sentence."},
            {"role": "user", "content": "x" * 170},
        ],
        "max_tokens": 64,
        "temperature": 0.7,
    }
).encode()
RESULT = json.dumps({"id": "chatcmpl-" + "0" * 34, "object": "chat.completion", "text": "y" * 430}).encode()
CHUNK = "t" + json.dumps(" and some more words of it")


class Side:
    """A store of this version, and its workers.

    Args:
        url: a Valkey of its own.
    """

    SENT: Mapping[str, Mapping[str, int]] = {"position": {"hmget": 1}}
    """By operation: commands that the store sends outside its scripts, though scripts use them too."""

    def __init__(self, url: str) -> None:
        # Leases outlast the run: a busy machine may let no heartbeat through for long.
        self.settings = BrokerSettings(redis_url=url, queue_max=100_000_000, lease_ttl_s=3600.0)
        self.store = JobStore(connect(url), self.settings)
        self.meter = Meter(connect(url))
        self._listener = connect(url, text=False).pubsub()
        self._listens: asyncio.Task[None] | None = None
        self.workers: list[str] = []
        self.tenants = ["default"]
        self.waiting: list[str] = []  # some of the jobs that are queued

    async def open(self) -> None:
        """Get ready, and listen as the api process that waits does."""
        await self._listener.subscribe(self.store.keys("api_channel", SINK))
        self._listens = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for _ in self._listener.listen():
            pass

    async def close(self) -> None:
        """Close every connection."""
        if self._listens is not None:
            self._listens.cancel()
            with suppress(asyncio.CancelledError):
                await self._listens
        await self._listener.aclose()
        await self.store.aclose()

    async def register(self, worker: str) -> None:
        """Begin a worker's lease."""
        self.workers.append(worker)
        facts = {"m": {"card": {"id": "m"}, "endpoints": ["/v1/chat/completions"], "max_model_len": 4096}}
        await self.store.register(worker, _info(worker), facts, {})
        await self.store.heartbeat(worker, first=True, info=_info(worker))

    async def accept(self, *, tenant: str = "default", waited: bool = False, stream: bool = False) -> str:
        """Accept a job."""
        ident = make_job_id(time.time_ns() // 1_000_000, os.urandom(10))
        sink = SINK if waited else None
        spec = JobSpec(ident, "/v1/chat/completions", "m", BODY, tenant=tenant, stream=stream, sink=sink)
        return (await self.store.accept(spec)).id

    async def claim(self, worker: str, count: int) -> list[Any]:
        """Take this many jobs."""
        raise NotImplementedError

    async def take(self, worker: str, count: int) -> list[Any]:
        """Take all jobs, which are this many, as the transport for Celery does in a worker that was idle."""
        return await self.claim(worker, count)

    async def append(self, claims: Sequence[Any], seq: int) -> None:
        """Write one chunk of each stream."""
        await self.store.append([(claim.id, claim.attempt, seq, CHUNK) for claim in claims])

    def finish(self, worker: str, claim: Any) -> Coroutine[Any, Any, bool]:
        """End a job well."""
        usage = Usage(60, 64, 124)
        return self.store.finish(claim, worker, JobState.SUCCEEDED, status=200, result=RESULT, usage=usage)

    def cancel(self, job_id: str) -> Coroutine[Any, Any, Any]:
        """Cancel a queued job."""
        return self.store.cancel(job_id)

    def move(self, job_id: str) -> Coroutine[Any, Any, Any]:
        """Move a queued job to the lane below."""
        return self.store.move(job_id, Lane.LOW)

    def release(self, worker: str, claim: Any) -> Coroutine[Any, Any, Any]:
        """Give a job back."""
        return self.store.release(claim, worker, "released")

    def position(self, job_id: str) -> Coroutine[Any, Any, Any]:
        """Read a queued job with its position."""
        return self.store.get(job_id)

    def beat(self, worker: str) -> Coroutine[Any, Any, Any]:
        """Prolong a worker's lease."""
        return self.store.heartbeat(worker, info=_info(worker))

    def reap(self) -> Coroutine[Any, Any, Any]:
        """Run one round of the reaper."""
        return self.store.reap()

    async def upkeep(self, workers: Sequence[str], seconds: float) -> None:
        """Do for a while what a fleet does by the clock: every worker's heartbeats, and reapers in each and in an api."""

        async def beats(worker: str, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            while True:
                await self.beat(worker)
                await asyncio.sleep(self.settings.heartbeat_s)

        step_s = self.settings.heartbeat_s / len(workers)
        jobs = [beats(worker, place * step_s) for place, worker in enumerate(workers)]
        jobs += [reap_forever(self.store, self.settings.reap_interval_s) for _ in range(len(workers) + 1)]
        tasks = [asyncio.create_task(job) for job in jobs]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()


def _info(worker: str) -> dict[str, Any]:
    """Return what a worker says of itself, as large as a real worker's words."""
    place = {"name": worker, "host": "host-of-the-worker", "pid": 12345, "pool": "default"}
    engine = {"engine": "simulated", "device": "cpu", "devices": 1, "device_memory_bytes": 16 * 2**30}
    serves = {"models": ["m"], "aliases": [], "capacity": 256, "bulk_capacity": 192, "state": "ready"}
    load = {
        "running": 8,
        "chunks": 0,
        "rows": 0,
        "engine_running": 8,
        "engine_waiting": 0,
        "kv_cache_usage": 0.1,
    }
    seen = {
        "started_at": 1.8e9,
        "metrics_url": "http://127.0.0.1:12345/metrics",
        "gpus": [],
        "tokens_per_s": 100.0,
    }
    return place | engine | serves | load | seen


def main(kind: type[Side]) -> None:
    """Measure what the input asks for, until its end, on a server in the folder in which this runs.

    Arguments: the folder of the code, and ``--no-files`` to leave out the server's append-only file.
    """
    import broker

    code, *flags = sys.argv[1:]
    there = Path(str(broker.__file__)).parents[1]
    if there != Path(code):
        sys.exit(f"this process should run the code in {code}, and runs that in {there}")
    cores = sorted(os.sched_getaffinity(0))
    with EmbeddedServer(Path.cwd()) as server:
        assert server.pid is not None
        os.sched_setaffinity(server.pid, cores[-1:])  # a core for itself, where there are two
        os.sched_setaffinity(0, cores[:-1] or cores)
        if "--no-files" in flags:
            with Redis.from_url(server.url) as client:
                client.config_set("appendonly", "no")
        uvloop.run(_serve(kind, server.url))


async def _serve(kind: type[Side], url: str) -> None:
    side = kind(url)
    await side.open()
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            answer = await PARTS[asked["part"]](side, **asked["options"])
            print(json.dumps(answer), flush=True)
    finally:
        await side.close()
