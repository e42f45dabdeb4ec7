"""What the handlers work with: one object per api process, made by ``create_app`` and passed on."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from api.access.authenticate import DEFAULT
from api.http.errors import ERROR_CODES
from api.middleware.trace import begin_accept
from api.settings import ApiSettings
from broker.batches import BatchStore
from broker.catalogue import Catalogue
from broker.db.client import connect
from broker.db.errors import StoreUnavailableError
from broker.events.hub import EventHub
from broker.events.token_counts import CountClient
from broker.files import FileStore
from broker.jobs import Accepted, JobStore
from jobs.ids import make_id, make_job_id
from jobs.lanes import Lane
from jobs.model import JobSpec
from monitoring.metrics import ApiMetrics, DataDisk, SharedState, TenantNames, set_up
from monitoring.trace_context import TraceContext
from monitoring.tracing import Span, make_tracer
from storage import Storage, StorageUnavailableError, local_folders, open_storage

if TYPE_CHECKING:
    from api.bulk.coordinator import Coordinator

log = structlog.get_logger(__name__)

ABANDON_TRIES = 60
ABANDON_PAUSE_S = 1.0
ABANDON_UNKNOWN = 3


class Services:
    """The store, the event hub, the catalogue and the metrics of one api process.

    Making it connects to nothing. ``process`` is its name among all api processes.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.store = JobStore(connect(settings.redis_url), settings)
        client = connect(settings.redis_url, text=False)
        self.hub = EventHub(self.store, client, self.process, inbox_limit=settings.inbox_limit)
        self.catalogue = Catalogue(self.store, settings.default_model)
        self.asker = CountClient(self.store.client, self.hub, self.store.keys, settings.count_timeout_s)
        self.files = FileStore(self.store)
        self.batches = batch_store(self.store, settings)
        self._storage: Storage | None = None
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        set_up(self.registry, "api")
        self.tenants = TenantNames({DEFAULT, *settings.api_keys, *settings.tenants})
        self.metrics = ApiMetrics(
            self.registry, lanes=list(Lane), error_codes=ERROR_CODES, tenants=self.tenants
        )
        self.shared = SharedState(self.registry, self.tenants)
        DataDisk(self.registry, local_folders(settings))
        self.tracer = make_tracer(
            "penstock-api",
            settings.otlp_endpoint,
            ratio=settings.trace_ratio,
            max_per_s=settings.trace_max_per_s,
            resource={"service.instance.id": self.process, "service.namespace": settings.namespace},
        )
        self.envelope_ready = False
        self.coordinator: Coordinator | None = None
        self._abandoning: set[asyncio.Task[None]] = set()

    def new_job_id(self) -> str:
        """Make a job id from this machine's clock."""
        return make_job_id(time.time_ns() // 1_000_000, os.urandom(10))

    async def accept(self, spec: JobSpec, span: Span, links: Iterable[TraceContext | None] = ()) -> Accepted:
        """Accept a job as :meth:`broker.jobs.JobStore.accept` does, as a step of the trace of the request that brings it.

        Args:
            spec: the job, without a trace.
            span: the request's.
            links: traces that have to do with it.
        """
        step = begin_accept(self.tracer, span, spec, self.store.keys("queue", spec.pool, spec.lane), links)
        if step.context is not None:
            spec = replace(spec, trace=step.context.encode())
            structlog.contextvars.bind_contextvars(job_id=spec.id, trace_id=step.context.trace_id)
        else:
            structlog.contextvars.bind_contextvars(job_id=spec.id)
        try:
            accepted = await self.store.accept(spec)
        except Exception as error:
            step.error(type(error).__name__)
            raise
        finally:
            step.end()
        log.debug(
            "job_known" if accepted.replayed else "job_accepted",
            job_id=accepted.id,
            model=spec.model,
            pool=spec.pool,
            lane=spec.lane.value,
            endpoint=spec.endpoint,
            body_bytes=len(spec.body),
            position=accepted.position,
        )
        return accepted

    def new_id(self, prefix: str) -> str:
        """Make an id of another thing."""
        return make_id(prefix, time.time_ns() // 1_000_000, os.urandom(10))

    @property
    def storage(self) -> Storage:
        """Where files are, opened when first used.

        Raises:
            StorageUnavailableError: its directory cannot be made.
        """
        if self._storage is None:
            self._storage = open_storage(self.settings)
        return self._storage

    async def drop_object(self, key: str) -> None:
        """Have an object of no file deleted, sooner or later."""
        try:
            await self.files.discard([key])
        except (StoreUnavailableError, StorageUnavailableError) as error:
            log.warning("object_left_behind", key=key, error=str(error))

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
        log.warning("abandoned_job_not_cancelled", job_id=job_id)

    async def aclose(self) -> None:
        """Stop following events, finish what is pending and close the connections."""
        await self.hub.stop()
        if self._abandoning:
            await asyncio.wait(self._abandoning, timeout=1.0)
        for task in self._abandoning:
            task.cancel()
        await asyncio.gather(*self._abandoning, self.catalogue.aclose(), return_exceptions=True)
        await self.store.aclose()
        await asyncio.to_thread(self.tracer.close)


def batch_store(store: JobStore, settings: ApiSettings) -> BatchStore:
    """Return the store of batches."""
    keep, parts = settings.batch_retention_s, settings.batch_parts_retention_s
    return BatchStore(store, int(keep * 1000), int(min(keep, parts) * 1000))
