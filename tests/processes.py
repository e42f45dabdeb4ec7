"""Real worker processes for tests: started, watched and stopped by pid."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import psutil

from broker.coordinators import Coordinators
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from monitoring.failpoints import VARIABLE
from tests.environment import clean
from tests.forked import ForkedProcess
from tests.support import eventually

ROOT = Path(__file__).parents[1]


def descendants(pid: int) -> list[psutil.Process]:
    """Return the children of a process, theirs, and so on, by who started whom, as the system says it now.

    psutil's own walks leave a child out now and then: ``Process.children`` also compares the times of their starts, which
    it reckons from a boot time that the kernel corrects by a second; ``process_iter`` passes over a process that has the
    id of one that it saw before.
    """
    parents = []
    for one in psutil.pids():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(one)
            parents.append((one, process.ppid(), process))
    found, look = [], [pid]
    while look:
        parent = look.pop()
        young = [(child, one) for child, of, one in parents if of == parent]
        look += [child for child, _ in young]
        found += [one for _, one in young]
    return found


class _OurProcess:
    """A process of the product, with its settings given as overrides.

    Args:
        function: what it calls, ``module:name``.
        settings: whose Redis and namespace it uses.
        log: where its output goes.
        failpoints: see :mod:`monitoring.failpoints`.
        overrides: further settings.
    """

    def __init__(
        self,
        function: str,
        settings: BrokerSettings,
        log: Path,
        failpoints: str,
        overrides: dict[str, object],
    ) -> None:
        self.log = log
        given = {"redis_url": settings.redis_url, "namespace": settings.namespace, **overrides}
        env = clean() | {VARIABLE: failpoints}
        self.process = ForkedProcess(function, {"overrides": given}, log, ROOT, env)

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Return its exit status."""
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)


class WorkerProcess(_OurProcess):
    """One worker with the simulated engine. ``name``: before ``@host``."""

    def __init__(
        self,
        settings: BrokerSettings,
        log: Path,
        name: str = "w1",
        *,
        failpoints: str = "",
        **overrides: object,
    ) -> None:
        given = {"engine": "simulated", "name": name, **overrides}
        super().__init__("workers.main:run_worker", settings, log, failpoints, given)

    def is_ready(self) -> bool:
        """Whether it has said that it takes jobs."""
        return "worker_ready" in self.log.read_text()


class ApiProcess(_OurProcess):
    """One api process. ``port``: its loopback port."""

    def __init__(
        self, settings: BrokerSettings, log: Path, port: int, *, failpoints: str = "", **overrides: object
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        given = {"port": port, "catalogue_refresh_s": 0.1, **overrides}
        super().__init__("api.main:run_api", settings, log, failpoints, given)

    def client(self) -> openai.AsyncOpenAI:
        """Make a client; close it after use."""
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    async def ready(self, timeout_s: float = 30.0) -> None:
        """Wait until it serves."""
        async with httpx.AsyncClient(base_url=self.url) as http, asyncio.timeout(timeout_s):
            while True:
                try:
                    if (await http.get("/health/live")).status_code == 200:
                        return
                except httpx.HTTPError:
                    await asyncio.sleep(0.05)


class CoordinatorProcess(_OurProcess):
    """One coordinator process."""

    def __init__(
        self, settings: BrokerSettings, log: Path, *, failpoints: str = "", **overrides: object
    ) -> None:
        super().__init__("coordinator.main:run_coordinator", settings, log, failpoints, overrides)

    async def ready(self, store: JobStore) -> None:
        """Wait until it has its lease."""

        async def leased() -> bool:
            return self.process.pid in {one["pid"] for one in await Coordinators(store).alive()}

        await eventually(leased)
