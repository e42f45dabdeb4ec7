"""Rollouts and aliases as the API has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from jobs.names import NAME
from jobs.rollouts import Rollout, Version

Model = Annotated[str, Field(min_length=1, max_length=512)]
Flag = Annotated[str, Field(min_length=3, max_length=1000)]
ModeName = Literal["surge", "no_surge", "in_place"]


class RolloutRequest(BaseModel):
    """Body of ``POST /v1/admin/rollouts/{pool}``: what the new version has beyond the settings of the pool."""

    model_config = ConfigDict(extra="forbid")

    model: Model | None = Field(None, description="Hub name or path of the new model; default: the same one.")
    engine_args: Annotated[list[Flag], Field(max_length=50, fail_fast=True)] = Field(
        default_factory=list,
        description="Flags for vLLM after those of the pool's settings, as `--max-model-len=4096`. None may name code or a "
        "file.",
    )
    mode: ModeName = Field(
        "surge",
        description="`surge`: the new workers start beside the old ones. `no_surge`: the old ones end first; calls wait. "
        "`in_place`: running workers load the new weights, which have the same shapes, one after another.",
    )


class BackRequest(BaseModel):
    """Body of ``POST /v1/admin/rollouts/{pool}/back``. Optional."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["surge", "no_surge"] | None = Field(None, description="Default: that of the last rollout.")


class SwitchRequest(BaseModel):
    """Body of ``POST /v1/admin/rollouts/{pool}/switch``."""

    model_config = ConfigDict(extra="forbid")

    to: Annotated[str, Field(pattern=NAME)] = Field(description="The pool that serves from now on.")
    drain: bool = Field(default=True, description="Drain the workers of the version before.")


class VersionObject(BaseModel):
    """A version of a pool's model."""

    pool: str = Field(description="The pool of its workers: jobs that it ran have it in `pool`.")
    model: str | None = Field(description="null: as the settings of the pool say.")
    engine_args: list[str]


class RolloutObject(BaseModel):
    """A pool's versions, and its rollout."""

    id: str = Field(description="The pool, by its first version's name.")
    object: Literal["rollout"]
    state: Literal["starting", "moving", "done", "failed", "aborted"]
    mode: ModeName
    current: VersionObject = Field(description="The version that serves.")
    previous: VersionObject | None = Field(description="The one before it: `back` returns to it.")
    target: VersionObject | None = Field(description="The version that is being started.")
    message: str | None = Field(description="What the rollout waits for, or why it failed.")
    changed_at: float | None = Field(description="When the state began, Unix seconds.")
    left: int = Field(description="Jobs that still wait or run in the version before.")
    keeper: str | None = Field(
        description="The host and process of the `penstock up` that carries it out; null: there is none."
    )


class RolloutList(BaseModel):
    """Rollouts, by pool."""

    object: Literal["list"]
    data: list[RolloutObject]


class AliasRequest(BaseModel):
    """Body of ``PUT /v1/admin/aliases/{alias}``."""

    model_config = ConfigDict(extra="forbid")

    model: Model = Field(description="The model that it means, by its name or another alias.")


class AliasObject(BaseModel):
    """An alias that was set as data."""

    id: str
    object: Literal["alias"]
    model: str


class AliasList(BaseModel):
    """Aliases, by name."""

    object: Literal["list"]
    data: list[AliasObject]


def rollout_view(one: Rollout, left: int, keeper: str | None) -> dict[str, Any]:
    """Return the rollout object."""
    return {
        "id": one.pool,
        "object": "rollout",
        "state": one.state.value,
        "mode": one.mode.value,
        "current": one.current.written(),
        "previous": _version(one.previous),
        "target": _version(one.target),
        "message": one.message,
        "changed_at": None if one.since_ms is None else one.since_ms / 1000,
        "left": left,
        "keeper": keeper,
    }


def _version(version: Version | None) -> dict[str, Any] | None:
    return None if version is None else version.written()
