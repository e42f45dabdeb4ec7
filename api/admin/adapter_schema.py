"""LoRA adapters as the API has them: the bodies that declare and change one, and its object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from broker.settings import TenantName
from jobs.adapters import MOST_NAME, Adapter, Report, state_of
from jobs.names import NAME

PoolName = Annotated[str, Field(pattern=NAME)]


class AdapterRequest(BaseModel):
    """Body of ``POST /v1/admin/adapters``."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        min_length=1, max_length=MOST_NAME, description="The name that requests use as their `model`."
    )
    pool: PoolName = Field("default", description="The pool whose workers load it.")
    source: str = Field(
        min_length=1,
        max_length=512,
        description="The id of an uploaded file: a tar of `adapter_config.json` and `adapter_model.safetensors`, or the"
        " latter alone. Or `hf:org/name` or `hf:org/name@revision` on the Hugging Face hub.",
    )
    config: dict[str, Any] | None = Field(
        None, description="`adapter_config.json`, if the file is `adapter_model.safetensors` alone."
    )
    tenant: TenantName | None = Field(None, description="The only tenant that may use it; null: all.")
    pinned: bool = Field(False, description="Workers keep it loaded.")
    any_base: bool = Field(
        False,
        description="Take it though it names another base model than the pool's: that is the same model under another name.",
    )


class AdapterChange(BaseModel):
    """Body of ``PATCH /v1/admin/adapters/{pool}/{name}``."""

    model_config = ConfigDict(extra="forbid")

    pinned: bool = Field(description="Whether workers keep it loaded.")


class AdapterReport(BaseModel):
    """What a live worker says of an adapter."""

    worker: str
    state: Literal["loaded", "stored", "failed"] = Field(
        description="loaded: in its engine; stored: a checked copy; failed: it cannot load it."
    )
    reason: str | None = Field(description="Why it failed.")


class AdapterObject(BaseModel):
    """A LoRA adapter."""

    id: str = Field(description="`<pool>/<name>`.", examples=["chat/acme/sql"])
    object: Literal["adapter"]
    name: str
    pool: str
    source: str
    digest: str = Field(description="SHA-256 of its files: its version.")
    bytes: int
    rank: int
    base: str | None = Field(description="The model that its configuration names.")
    tenant: str | None
    pinned: bool
    created_at: int = Field(description="Unix seconds, of this version.")
    state: Literal["pending", "loaded", "stored", "failed"] = Field(
        description="The best of its workers' states; failed: no live worker can load it."
    )
    workers: list[AdapterReport]


class AdapterList(BaseModel):
    """A page of adapters."""

    object: Literal["list"]
    data: list[AdapterObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AdapterRemoved(BaseModel):
    """The answer to a removal."""

    id: str
    object: Literal["adapter"]
    deleted: bool


def adapter_view(
    adapter: Adapter, workers: Iterable[str], said: Mapping[str, Mapping[str, Report]]
) -> dict[str, Any]:
    """Return the adapter object.

    Args:
        workers: the live incarnations of its pool.
        said: what each of them says of adapters.
    """
    reports = {worker: said.get(worker, {}).get(adapter.name) for worker in workers}
    return {
        "id": f"{adapter.pool}/{adapter.name}",
        "object": "adapter",
        "name": adapter.name,
        "pool": adapter.pool,
        "source": adapter.source,
        "digest": adapter.digest,
        "bytes": adapter.size_bytes,
        "rank": adapter.rank,
        "base": adapter.base,
        "tenant": adapter.tenant,
        "pinned": adapter.pinned,
        "created_at": adapter.created_ms // 1000,
        "state": state_of(adapter, reports.values()),
        "workers": [
            {"worker": worker, "state": report.state.value, "reason": report.reason}
            for worker, report in sorted(reports.items())
            if report is not None and report.digest == adapter.digest
        ],
    }
