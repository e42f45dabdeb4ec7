"""The wire models of tenants as administrators set them. Durations say their unit."""

from __future__ import annotations

from penstock.models import Wire


class QuotaUse(Wire):
    """What a tenant has used of its quotas; ``tokens_today`` since 00:00 UTC."""

    tokens_today: int = 0
    storage_bytes: int = 0
    batches_open: int = 0


class TenantSettings(Wire):
    """A tenant as it is set; None is no limit of its own.

    Attributes:
        state: ``active``, or ``suspended``: it submits nothing, and its batches wait.
        weight: its share of a lane, relative to the other tenants' weights.
        queue_max: its jobs that may wait in a pool; ``max_active``: those on a pool's engines at once.
        models: the models that it may use, by name or alias; ``lanes``: the lanes of its jobs and batches.
        requests_per_minute: its quotas, to ``batches_open``: see the operator's page on quotas.
        retention_s: how long its ended jobs are kept; 0: until the result was fetched, or for minutes.
        used: None in lists.
    """

    id: str
    state: str = "active"
    weight: float = 1.0
    queue_max: int | None = None
    max_active: int | None = None
    models: tuple[str, ...] | None = None
    lanes: tuple[str, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    storage_bytes: int | None = None
    batches_open: int | None = None
    retention_s: float | None = None
    used: QuotaUse | None = None
