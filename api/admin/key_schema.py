"""API keys as JSON: what administrators send and see. No digest of a secret is in an answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker.access import KeyRecord
from broker.settings import TenantName
from jobs.access import TENANT_SCOPES, Scope

YEAR_S = 365 * 86_400
DAY_S = 86_400

Lifetime = Annotated[int, Field(ge=1, le=100 * YEAR_S)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class KeyRequest(BaseModel):
    """Body of the call that makes a key."""

    model_config = ConfigDict(extra="forbid")

    tenant: TenantName = Field(description="Whose objects it makes and sees.")
    scopes: frozenset[Scope] = Field(
        TENANT_SCOPES,
        min_length=1,
        description="What it may do; `admin` includes all others, for every tenant. Default: everything of its own tenant.",
    )
    name: str = Field("", max_length=128, description="For people: what it is for.")
    models: list[ModelName] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="The models that it may use, by name or alias. Default: every model of its tenant.",
    )
    expires_in_s: Lifetime | None = Field(None, description="Default: it does not expire.")


class RotateRequest(BaseModel):
    """Body of the call that gives a key a new secret. Optional."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: int = Field(
        DAY_S,
        ge=0,
        le=YEAR_S,
        description="How long the secret until now stays right; 0: it is wrong at once.",
    )


class KeyObject(BaseModel):
    """An API key, without its secret."""

    id: str = Field(examples=["0aB1cD2eF3gH"])
    object: Literal["api_key"]
    tenant: str
    scopes: list[Scope]
    models: list[str] | None = Field(description="null: every model of its tenant.")
    name: str
    state: Literal["active", "expired", "revoked"]
    created_at: int = Field(description="Unix seconds.")
    expires_at: int | None = Field(description="Unix seconds; null: it does not expire.")
    last_used_at: int | None = Field(description="Unix seconds, to five minutes; null: never.")
    overlap_until: int | None = Field(
        description="Unix seconds: until then the secret before the last rotation is right; null: it is not."
    )


class NewKeyObject(KeyObject):
    """An API key with its secret. No other answer has it."""

    key: str = Field(examples=["psk_0aB1cD2eF3gH_…"])


class KeyList(BaseModel):
    """A page of keys."""

    object: Literal["list"]
    data: list[KeyObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def key_view(record: KeyRecord, now_ms: int) -> dict[str, Any]:
    """Return the key object."""
    expires, overlap = record.expires_ms, record.overlap_ms
    expired = expires is not None and expires <= now_ms
    return {
        "id": record.id,
        "object": "api_key",
        "tenant": record.tenant,
        "scopes": sorted(record.scopes),
        "models": None if record.models is None else sorted(record.models),
        "name": record.name,
        "state": "revoked" if record.revoked else "expired" if expired else "active",
        "created_at": record.created_ms // 1000,
        "expires_at": None if expires is None else expires // 1000,
        "last_used_at": None if record.used_ms is None else record.used_ms // 1000,
        "overlap_until": overlap // 1000 if overlap is not None and overlap > now_ms else None,
    }
