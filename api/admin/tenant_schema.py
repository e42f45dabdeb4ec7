"""Tenants as the API has them: the body that sets one, and its object."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.lanes import Lane
from jobs.tenants import QuotaUse, Tenant, TenantState

_MOST = 2**53
"""Larger numbers are not exact in Redis's functions."""

Most = Annotated[int, Field(ge=1, le=_MOST)]
LaneName = Literal["realtime", "high", "normal", "low", "bulk"]
Models = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=512)]], Field(max_length=1000, fail_fast=True)
]
Lanes = Annotated[list[LaneName], Field(min_length=1, max_length=5, fail_fast=True)]


class TenantFields(BaseModel):
    """Body of ``PUT`` and ``PATCH /v1/admin/tenants/{name}``: null is the default, which is no limit."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["active", "suspended"] | None = Field(
        None, description="A suspended tenant submits nothing, and its batches wait."
    )
    weight: Annotated[float, Field(ge=0.001, le=1000)] | None = Field(
        None, description="Its share of a lane, relative to the other tenants' weights; default: 1."
    )
    queue_max: Most | None = Field(
        None,
        description="Its jobs that may wait in a pool; default: the setting `tenant_queue_max`.",
    )
    max_active: Most | None = Field(
        None,
        description="Its jobs on a pool's engines at once; default: the setting `tenant_max_active`.",
    )
    models: Models | None = Field(None, description="The models that it may use, by name or alias.")
    lanes: Lanes | None = Field(
        None,
        description="The lanes that its jobs and batches may wait in. OpenAI calls use `realtime`.",
    )
    requests_per_minute: Most | None = Field(None, description="Jobs and calls that are accepted.")
    tokens_per_minute: Most | None = Field(None, description="Tokens of jobs, calls and rows of batches.")
    tokens_per_day: Most | None = Field(None, description="The same in a day, UTC.")
    storage_bytes: Most | None = Field(None, description="Bytes of its files.")
    batches_open: Most | None = Field(None, description="Its batches that have not ended.")
    retention_s: Annotated[float, Field(ge=0, le=315_360_000)] | None = Field(
        None,
        description="How long its ended jobs are kept; 0: until the result was fetched, or for minutes; default: the setting"
        " `retention_s`.",
    )

    def changes(self) -> dict[str, Any]:
        """Return the fields that the body has, by the names of :class:`jobs.tenants.Tenant`."""
        given = self.model_dump(exclude_unset=True)
        if "retention_s" in given:
            seconds = given.pop("retention_s")
            given["retention_ms"] = None if seconds is None else round(seconds * 1000)
        return given

    def tenant(self, name: str) -> Tenant:
        """Return the tenant that the body describes whole."""
        given: dict[str, Any] = {field: value for field, value in self.changes().items() if value is not None}
        if "state" in given:
            given["state"] = TenantState(given["state"])
        if "models" in given:
            given["models"] = tuple(given["models"])
        if "lanes" in given:
            given["lanes"] = tuple(map(Lane, given["lanes"]))
        return Tenant(name, **given)


class QuotaUseObject(BaseModel):
    """What a tenant has used of its quotas."""

    tokens_today: int = Field(description="Since 00:00 UTC; counted while it has a quota of tokens a day.")
    storage_bytes: int
    batches_open: int


class TenantSettingsObject(BaseModel):
    """A tenant; null is no limit of its own."""

    id: str
    object: Literal["tenant"]
    state: Literal["active", "suspended"]
    weight: float
    queue_max: int | None
    max_active: int | None
    models: list[str] | None
    lanes: list[LaneName] | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    storage_bytes: int | None
    batches_open: int | None
    retention_s: float | None
    used: QuotaUseObject | None = Field(description="null in lists.")


class TenantSettingsList(BaseModel):
    """Tenants for which something is set, by name."""

    object: Literal["list"]
    data: list[TenantSettingsObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def tenant_view(tenant: Tenant, used: QuotaUse | None = None) -> dict[str, Any]:
    """Return the tenant object."""
    return {
        "id": tenant.name,
        "object": "tenant",
        "state": tenant.state.value,
        "weight": tenant.weight,
        "queue_max": tenant.queue_max,
        "max_active": tenant.max_active,
        "models": tenant.models,
        "lanes": None if tenant.lanes is None else [lane.value for lane in tenant.lanes],
        "requests_per_minute": tenant.requests_per_minute,
        "tokens_per_minute": tenant.tokens_per_minute,
        "tokens_per_day": tenant.tokens_per_day,
        "storage_bytes": tenant.storage_bytes,
        "batches_open": tenant.batches_open,
        "retention_s": None if tenant.retention_ms is None else tenant.retention_ms / 1000,
        "used": used
        and {
            "tokens_today": used.tokens_today,
            "storage_bytes": used.stored_bytes,
            "batches_open": used.open_batches,
        },
    }
