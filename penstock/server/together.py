"""The api and a coordinator in one process, for machines with little memory: each has a thread and a loop of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

from prometheus_client import CollectorRegistry

from api.main import run_api
from coordinator.loop import Coordinator
from coordinator.settings import CoordinatorSettings
from jobs.lanes import Lane
from monitoring.metrics import AcceptedJobs

END_S = 10.0
"""Longest time of the coordinator's end, after the api's."""


def run_together(*, overrides: dict[str, Any], **api: Any) -> None:
    """Run the api, and a coordinator beside it, until SIGINT or SIGTERM. The coordinator's metrics are not served.

    Args:
        overrides: settings given on the command line.
        api: further arguments of :func:`api.main.run_api`, which also says what is raised.

    Raises:
        Exception: what ended the coordinator; that ends the api, too.
    """
    shared = {name: value for name, value in overrides.items() if name in CoordinatorSettings.model_fields}
    beside = Beside(CoordinatorSettings(**shared))
    beside.start()
    try:
        run_api(overrides=overrides, **api)
    finally:
        beside.end()
    if beside.failure is not None:
        raise beside.failure


class Beside:
    """The coordinator's thread. If it fails, batches would stand still: the process ends, and is started again.

    Attributes:
        failure: what ended the coordinator; None: it was asked to end, or runs.
    """

    def __init__(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._coordinator: Coordinator | None = None
        self.failure: Exception | None = None

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def end(self) -> None:
        """Have it give its batches back, and wait for that."""
        if self._coordinator is not None:
            self._loop.call_soon_threadsafe(self._coordinator.stop)
        self._thread.join(END_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        except Exception as error:  # noqa: BLE001 - the process ends with it
            self.failure = error
            os.kill(os.getpid(), signal.SIGTERM)

    async def _main(self) -> None:
        self._coordinator = Coordinator(self._settings, AcceptedJobs(CollectorRegistry(), list(Lane)))
        await self._coordinator.run()
