"""Pools that scale from zero as the API has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.declared import DeclaredPool

Name = Annotated[str, Field(min_length=1, max_length=512)]


class PoolRequest(BaseModel):
    """Body of ``PUT /v1/admin/pools/{pool}``."""

    model_config = ConfigDict(extra="forbid")

    model: Name = Field(
        description="The name by which requests ask for its model, as its workers will serve it."
    )
    aliases: Annotated[list[Name], Field(max_length=50, fail_fast=True)] = Field(
        default_factory=list, description="Further names of the model."
    )
    slots: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Jobs that one worker runs at once; null: as the last one that registered.",
    )
    device: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, description="Name of a worker's device, for requests with a `placement`."
    )
    device_memory_gb: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Memory of its devices together, in 10^9 bytes.",
    )
    devices: int = Field(1, ge=1, le=1024, description="How many devices a worker has.")
    force: bool = Field(
        False,
        description="Change the model although jobs or rows of batches wait for the one before; workers of the new one fail "
        "them. Take names that only pools without a worker and a declaration have.",
    )

    def declared(self, pool: str) -> DeclaredPool:
        """Return the declaration of a pool."""
        return DeclaredPool(
            **{
                **self.model_dump(exclude={"force"}),
                "pool": pool,
                "aliases": tuple(dict.fromkeys(self.aliases)),
            }
        )


class DeclaredPoolObject(BaseModel):
    """A pool that scales from zero: requests for its model are queued although no worker of it is alive."""

    id: str = Field(description="The pool.")
    object: Literal["declared_pool"]
    model: str
    aliases: list[str]
    slots: int | None
    device: str | None
    device_memory_gb: float | None
    devices: int
    from_settings: bool = Field(
        description="The settings of the api declare it. It follows them at each start of an api process."
    )


class DeclaredPoolList(BaseModel):
    """Pools that scale from zero, by name."""

    object: Literal["list"]
    data: list[DeclaredPoolObject]


def declared_view(one: DeclaredPool) -> dict[str, Any]:
    """Return the object of a declared pool."""
    said = {name: getattr(one, name) for name in DeclaredPoolObject.model_fields.keys() - {"id", "object"}}
    return {"id": one.pool, "object": "declared_pool", **said}
