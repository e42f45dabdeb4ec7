"""The stores that a coordinator's steps work with."""

from __future__ import annotations

from dataclasses import dataclass

from broker.batch_steps import BatchSteps
from broker.files import FileStore
from broker.jobs import JobStore
from broker.tasks import TaskStore
from broker.usage import UsageStore
from broker.webhook_outbox import WebhookOutbox
from broker.webhooks import Webhooks
from coordinator.settings import CoordinatorSettings
from monitoring.metrics import AcceptedJobs
from storage import Storage, open_storage


class ChangedError(Exception):
    """The batch is no longer what it was when the step began: read it again."""


@dataclass(slots=True)
class Context:
    """The stores of one coordinator, on its event loop.

    Attributes:
        token: the coordinator's name in leases.
        metrics: where accepted chunks are counted.
    """

    settings: CoordinatorSettings
    store: JobStore
    batches: BatchSteps
    files: FileStore
    tasks: TaskStore
    usage: UsageStore
    webhooks: Webhooks
    outbox: WebhookOutbox
    token: str
    metrics: AcceptedJobs
    _storage: Storage | None = None

    @classmethod
    def over(
        cls,
        store: JobStore,
        settings: CoordinatorSettings,
        token: str,
        metrics: AcceptedJobs,
        storage: Storage | None = None,
    ) -> Context:
        """Make one over a job store; ``storage``: one that is open already."""
        batches = BatchSteps(store, settings.batch_retention_s, settings.batch_parts_retention_s)
        outbox = WebhookOutbox(
            store,
            token,
            settings.webhook_timeout_s + settings.batch_lease_s,
            settings.webhook_disable_after_s,
        )
        stores = FileStore(store), TaskStore(store), UsageStore(store), Webhooks(store), outbox
        return cls(settings, store, batches, *stores, token, metrics, storage)

    @property
    def storage(self) -> Storage:
        """Where files are, opened when first used.

        Raises:
            StorageUnavailableError: its directory cannot be made.
        """
        if self._storage is None:
            self._storage = open_storage(self.settings)
        return self._storage
