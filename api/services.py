"""The stores and other shared objects of one api process. ``create_app`` makes them once and passes them on."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from api.abandon import Abandoned
from api.access.doors import Doors
from api.access.given import GivenKeys
from api.access.issuer import Issuer
from api.access.known_keys import KnownKeys
from api.access.known_tenants import KnownTenants
from api.access.oidc import TokenRules, Tokens
from api.access.throttle import Throttle
from api.access.version import AccessVersion
from api.console.samples import Samples
from api.http.bodies import Bodies
from api.http.errors import ERROR_CODES
from api.readiness import Readiness
from api.settings import ApiSettings
from broker.access import AccessStore
from broker.adapters import Adapters
from broker.backlogs import Backlogs
from broker.batches import BatchStore
from broker.catalogue import Catalogue
from broker.conversations import ConversationStore
from broker.coordinators import Coordinators
from broker.db.client import connect
from broker.declared import DeclaredPools, declared_in_settings
from broker.events.hub import EventHub
from broker.events.token_counts import CountClient
from broker.files import FileStore
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from broker.tasks import TaskStore
from broker.tenants import TenantStore
from broker.webhooks import Webhooks
from jobs.access import DEFAULT_TENANT
from jobs.ids import make_id, make_job_id
from jobs.lanes import Lane
from monitoring.metrics import ApiMetrics, DataDisk, SharedState, TenantNames, set_up
from monitoring.otlp import make_tracer
from storage import Storage, StoredBodies, local_folders, open_storage


class Services:
    """The stores, the event hub, the bodies, the catalogue, the metrics and the tracer. Making them connects to nothing.

    Raises:
        NoPepperStartError: keys are required, and there is no pepper for them.
        DeclaredPoolStartError: a pool of the settings that scales from zero does not say what it serves.

    Attributes:
        process: the name of this process among all api processes.
        readiness: whether a job that is submitted now will run.
        samples: the last hour of each pool, for the console's charts.
        prepared: set once the data in Redis is this version's.
        doors: who gets in; None: everybody, no keys are required.
        user_key: the names of end users are digested under it; see :mod:`api.admission.end_users`. Without a pepper it is
            random, and :meth:`agree` makes it the same in every process.
        large_bodies: whoever repeats a job with a large request, or continues or lists large items, takes one: stored
            bodies then go through this process.
        scaling_pools: the pools of the settings file that scale from zero; None: there is no such file.
        adapter_intake: whoever brings an adapter takes one.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self.settings = settings
        self.process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        set_up(self.registry, "api")
        self.tenants = TenantNames({DEFAULT_TENANT, *settings.api_keys, *settings.tenants})
        self.metrics = ApiMetrics(
            self.registry, lanes=list(Lane), error_codes=ERROR_CODES, tenants=self.tenants
        )
        self.store = JobStore(
            connect(settings.redis_url),
            settings,
            self.metrics.store_faults.inc,
            StoredBodies(lambda: self.storage),
        )
        client = connect(settings.redis_url, text=False)
        self.hub = EventHub(
            self.store,
            client,
            self.process,
            inbox_limit=settings.inbox_limit,
            inbox_max_bytes=settings.inbox_max_bytes,
        )
        self.catalogue = Catalogue(self.store, settings.default_model)
        self.abandoned = Abandoned(self.store)
        self.asker = CountClient(self.store.client, self.hub, self.store.keys, settings.count_timeout_s)
        self.bodies = Bodies(
            max_bytes=settings.max_body_bytes,
            max_items=settings.max_body_items,
            memory_bytes=settings.bodies_memory_bytes,
        )
        self.large_bodies = asyncio.Semaphore(2)
        self.prepared = asyncio.Event()
        self.files = FileStore(self.store)
        self.batches = BatchStore(self.store)
        self.conversations = ConversationStore(self.store, settings.max_body_bytes)
        self.tasks = TaskStore(self.store)
        self.webhooks = Webhooks(self.store)
        self.coordinators = Coordinators(self.store)
        self.access = AccessStore(self.store)
        self.user_key = settings.pepper() or secrets.token_bytes(32)
        self.tenant_store = TenantStore(self.store)
        self.rollouts = Rollouts(self.store)
        self.backlogs = Backlogs(self.store)
        self.declared = DeclaredPools(self.store)
        self.scaling_pools = declared_in_settings()
        self.adapters = Adapters(self.store)
        self.adapter_intake = asyncio.Semaphore(2)
        self.known_tenants = KnownTenants(self.tenant_store)
        self.doors = _doors(settings, self.access, self.known_tenants)
        self.access_version = AccessVersion(self.store, self.known_tenants.forget)
        self._storage: Storage | None = None
        self.shared = SharedState(self.registry, self.tenants)
        DataDisk(self.registry, local_folders(settings))
        self.tracer = make_tracer(
            "penstock-api",
            settings.otlp_endpoint,
            ratio=settings.trace_ratio,
            max_per_s=settings.trace_max_per_s,
            resource={"service.instance.id": self.process, "service.namespace": settings.namespace},
        )
        self.readiness = Readiness(self.catalogue, settings.catalogue_refresh_s)
        self.samples = Samples()

    async def agree(self) -> None:
        """Take the key of end users' digests that the first api process stored, unless there is a pepper.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        if self.settings.pepper() is None:
            self.user_key = await self.access.user_key(self.user_key)

    def new_job_id(self) -> str:
        """Make a job id from this machine's clock."""
        return make_job_id(time.time_ns() // 1_000_000, os.urandom(10))

    def new_id(self, prefix: str) -> str:
        """Make an id of another kind of object."""
        return make_id(prefix, time.time_ns() // 1_000_000, os.urandom(10))

    @property
    def storage(self) -> Storage:
        """The file storage, opened at its first use.

        Raises:
            StorageUnavailableError: its directory cannot be made.
        """
        if self._storage is None:
            self._storage = open_storage(self.settings)
        return self._storage

    async def aclose(self) -> None:
        """Stop following events, give pending work a moment and close the connections."""
        await self.hub.stop()
        self.bodies.close()
        if self.doors is not None and self.doors.tokens is not None:
            await self.doors.tokens.aclose()
        await asyncio.gather(self.abandoned.aclose(), self.catalogue.aclose(), return_exceptions=True)
        await self.store.aclose()
        await asyncio.to_thread(self.tracer.close)


def _doors(settings: ApiSettings, store: AccessStore, tenants: KnownTenants) -> Doors | None:
    pepper = settings.pepper()
    if pepper is None or not settings.keys_required:
        return None
    texts = {tenant: key.get_secret_value() for tenant, key in settings.api_keys.items()}
    keys = KnownKeys(store, pepper, GivenKeys(store, texts, pepper), tenants)
    return Doors(keys, Throttle(settings.failed_keys_per_minute), _tokens(settings))


def _tokens(settings: ApiSettings) -> Tokens | None:
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    rules = TokenRules(
        settings.oidc_audience,
        settings.oidc_tenant_claim,
        settings.oidc_scopes_claim,
        settings.oidc_leeway_s,
    )
    return Tokens(Issuer(settings.oidc_issuer, settings.oidc_max_stale_s), rules)
