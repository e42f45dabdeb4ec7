"""What the handlers work with: one object per api process, made by ``create_app`` and passed on."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from api.catalogue import Catalogue
from api.settings import ApiSettings
from broker.ask import Asker
from broker.connection import connect
from broker.errors import StoreUnavailableError
from broker.hub import EventHub
from broker.store import JobStore
from jobs.ids import make_job_id
from monitoring.metrics import ApiMetrics

log = structlog.get_logger(__name__)

ABANDON_TRIES = 60
ABANDON_PAUSE_S = 1.0
ABANDON_UNKNOWN = 3


class Services:
    """The store, the event hub, the catalogue and the metrics of one api process.

    Making it connects to nothing. ``process`` is its name among all api processes.
    """

    def __init__(self, settings: ApiSettings, endpoints: list[str]) -> None:
        self.settings = settings
        self.process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.store = JobStore(connect(settings.redis_url), settings)
        client = connect(settings.redis_url, text=False)
        self.hub = EventHub(self.store, client, self.process, inbox_limit=settings.inbox_limit)
        self.catalogue = Catalogue(self.store)
        self.asker = Asker(self.store.client, self.hub, self.store.keys, settings.count_timeout_s)
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.metrics = ApiMetrics(self.registry, endpoints)
        self.envelope_ready = False
        self._abandoning: set[asyncio.Task[None]] = set()

    def new_job_id(self) -> str:
        """Make a job id from this machine's clock."""
        return make_job_id(time.time_ns() // 1_000_000, os.urandom(10))

    def abandon(self, job_id: str) -> None:
        """Cancel a job in the background: nobody wants it any more."""
        task = asyncio.get_running_loop().create_task(self._abandon(job_id), name=f"abandon {job_id}")
        self._abandoning.add(task)
        task.add_done_callback(self._abandoning.discard)

    async def _abandon(self, job_id: str) -> None:
        unknown = 0
        for _ in range(ABANDON_TRIES):
            try:
                state = await self.store.cancel(job_id)
            except StoreUnavailableError:
                state = None
            else:
                # Unknown so far: its submission may still be on its way through a connection that stalled.
                unknown += state is None
            if state is not None or unknown >= ABANDON_UNKNOWN:
                return
            await asyncio.sleep(ABANDON_PAUSE_S)
        log.warning("abandoned_job_not_cancelled", job=job_id)

    async def aclose(self) -> None:
        """Stop following events, finish what is pending and close the connections."""
        await self.hub.stop()
        if self._abandoning:
            await asyncio.wait(self._abandoning, timeout=1.0)
        for task in self._abandoning:
            task.cancel()
        await asyncio.gather(*self._abandoning, self.catalogue.aclose(), return_exceptions=True)
        await self.store.aclose()
