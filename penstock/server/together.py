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
    """
    shared = {name: value for name, value in overrides.items() if name in CoordinatorSettings.model_fields}
    beside = _Beside(CoordinatorSettings(**shared))
    beside.start()
    try:
        run_api(overrides=overrides, **api)
    finally:
        beside.end()


class _Beside:
    """The coordinator's thread."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="coordinator", daemon=True)
        self._coordinator: Coordinator | None = None

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Have it give its batches back, and wait for that."""
        if self._coordinator is not None:
            self._loop.call_soon_threadsafe(self._coordinator.stop)
        self._thread.join(END_S)

    def _run(self) -> None:
        asked = False
        try:
            self._loop.run_until_complete(self._main())
            asked = True
        finally:
            if not asked:  # it failed, and batches would stand still: the process ends, and is started again
                os.kill(os.getpid(), signal.SIGTERM)

    async def _main(self) -> None:
        self._coordinator = Coordinator(self._settings, AcceptedJobs(CollectorRegistry(), list(Lane)))
        await self._coordinator.run()
