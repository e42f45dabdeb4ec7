"""A tenant as data: its share, its bounds, its rights and its quotas. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from jobs.lanes import Lane


class TenantState(StrEnum):
    """Whether a tenant may submit work. What it has submitted before runs and can be read in either state."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Tenant:
    """What an operator has set for a tenant. One for which nothing is set has these defaults.

    Attributes:
        weight: its share of a lane, relative to the other tenants' weights.
        queue_max: its jobs that may wait in a pool; None: the setting ``tenant_queue_max``.
        max_active: its jobs on a pool's engines at once; None: the setting ``tenant_max_active``.
        models: the models that it may use, by name or alias; None: all.
        lanes: the lanes that its jobs and batches may wait in; None: all. Without ``realtime`` it has no OpenAI calls.
        requests_per_minute: jobs and calls that are accepted; None, here and below: no quota.
        tokens_per_minute: tokens of its jobs, calls and rows of batches.
        tokens_per_day: the same in a day, UTC.
        storage_bytes: bytes of its files.
        batches_open: its batches that have not ended.
        retention_ms: how long its ended jobs are kept; 0: until the result was fetched, or for minutes; None: the setting
            ``retention_s``.
    """

    name: str
    state: TenantState = TenantState.ACTIVE
    weight: float = 1.0
    queue_max: int | None = None
    max_active: int | None = None
    models: tuple[str, ...] | None = None
    lanes: tuple[Lane, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    storage_bytes: int | None = None
    batches_open: int | None = None
    retention_ms: int | None = None

    def may_use(self, lane: Lane) -> bool:
        """Whether its work may wait in a lane."""
        return self.lanes is None or lane in self.lanes


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """What a tenant has used of its quotas.

    Attributes:
        tokens_today: counted while it has a quota of tokens a day.
        stored_bytes: of its files.
        open_batches: its batches that have not ended.
    """

    tokens_today: int = 0
    stored_bytes: int = 0
    open_batches: int = 0


class Rate(NamedTuple):
    """What is left of a quota by the minute.

    Attributes:
        limit: of a minute.
        remaining: may be used at once.
        reset_ms: until all of it may.
    """

    limit: int
    remaining: int
    reset_ms: int


@dataclass(frozen=True, slots=True)
class Rates:
    """What is left of a tenant's minute; None: it has no such quota."""

    requests: Rate | None = None
    tokens: Rate | None = None
