"""A real coordinator in a thread, with its own event loop, as ``penstock coordinator`` runs it in a process."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, start_http_server

from broker.settings import BrokerSettings
from coordinator.loop import Coordinator
from coordinator.settings import CoordinatorSettings
from jobs.lanes import Lane
from monitoring.metrics import AcceptedJobs
from tests.support import wait_until


class CoordinatorThread:
    """Drives batches until the block ends.

    Args:
        base: where Redis is.
        settings: further settings of the coordinator.
    """

    def __init__(self, base: BrokerSettings, **settings: Any) -> None:
        self.settings = CoordinatorSettings(redis_url=base.redis_url, namespace=base.namespace, **settings)
        registry = CollectorRegistry()
        self.metrics = AcceptedJobs(registry, list(Lane))
        self._server, _ = start_http_server(0, "127.0.0.1", registry)
        self.metrics_url = f"http://127.0.0.1:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="coordinator")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._coordinator: Coordinator | None = None

    async def _run(self) -> None:
        self._coordinator = Coordinator(self.settings, self.metrics, self.metrics_url)
        self._loop = asyncio.get_running_loop()
        await self._coordinator.run()

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._loop is not None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            assert self._loop is not None
            assert self._coordinator is not None
            self._loop.call_soon_threadsafe(self._coordinator.stop)
        self._thread.join(20)
        self._server.shutdown()
        self._server.server_close()
        assert not self._thread.is_alive()
