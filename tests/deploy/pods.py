"""What runs in the pods of tests: a worker process with the simulated engine, or only a worker's lease."""

from __future__ import annotations

import itertools
import signal
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from broker.db.client import connect
from broker.jobs import JobStore
from broker.registry import DRAIN
from broker.settings import BrokerSettings
from broker.sources import FILE_VARIABLE
from tests.environment import clean
from tests.forked import ForkedProcess
from tests.kubernetes.controller import State
from tests.kubernetes.kinds import Object
from tests.processes import ROOT
from tests.puppet import FACTS

_ADDRESSES = itertools.count(2)


def address() -> str:
    """Return a loopback address of a pod's own."""
    number = next(_ADDRESSES)
    return f"127.9.{number >> 8 & 255}.{number & 255}"


def told(pod: Object) -> tuple[str, str | None]:
    """Return the pool and the version that a worker's arguments name."""
    (container,) = pod["spec"]["containers"]
    given = dict(itertools.pairwise(container["args"]))
    return given["--pool"], given.get("--pool-version")


class LeasedWorker:
    """A worker that is nothing but its lease, and jobs that it says it runs. It drains at once.

    Args:
        busy: jobs that the workers run, by pod.
    """

    def __init__(self, settings: BrokerSettings, busy: Mapping[str, int], pod: Object, said: Object) -> None:
        self.address = address()
        self._store = JobStore(connect(settings.redis_url), settings)
        pool, version = told(pod)
        table = tomllib.loads(said["data"]["penstock.toml"])["pools"][pool]
        self._id = self.address
        self._info: dict[str, Any] = {
            "name": f"cpu@{pod['metadata']['name']}",
            "pool": pool if version is None else f"{pool}-{version}",
            "models": [table["served_model_name"]],
            "capacity": 8,
            "rows": busy.get(pod["metadata"]["name"], 0),
            "metrics_url": f"http://{self.address}:9100/metrics",
            **({} if version is None else {"version_of": pool}),
        }
        self._began = False
        self.beats = 0

    async def poll(self, *, leaving: bool) -> State:
        self.beats += 1
        self._info["tokens_per_s"] = 100.0 * self.beats
        if not self._began:
            await self._store.register(self._id, self._info, {self._info["models"][0]: FACTS})
        beat = await self._store.heartbeat(self._id, first=not self._began, info=self._info)
        self._began = True
        if leaving or DRAIN in dict(beat.orders):
            await self.kill()
            return State.ENDED
        return State.READY

    async def kill(self) -> None:
        await self._store.bury(self._id)
        await self._store.aclose()


class WorkerPod:
    """A worker process. ``folder``: for its settings file and its log."""

    def __init__(self, settings: BrokerSettings, folder: Path, pod: Object, said: Object) -> None:
        self.address = address()
        name = f"{pod['metadata']['name']}-{self.address}"
        toml, self.log = folder / f"{name}.toml", folder / f"{name}.log"
        toml.write_text(said["data"]["penstock.toml"])
        pool, version = told(pod)
        given = {
            "redis_url": settings.redis_url,
            "namespace": settings.namespace,
            "pool": pool,
            "metrics_host": self.address,
            "data_dir": str(folder / name),
            **({} if version is None else {"pool_version": version}),
        }
        env = clean() | {FILE_VARIABLE: str(toml)}
        self._process = ForkedProcess("workers.main:run_worker", {"overrides": given}, self.log, ROOT, env)
        self._told = False

    async def poll(self, *, leaving: bool) -> State:
        if self._process.poll() is not None:
            return State.ENDED
        if leaving and not self._told:
            self._told = True
            self._process.send_signal(signal.SIGTERM)
        return State.READY if "worker_ready" in self.log.read_text() else State.STARTING

    async def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
