"""The shapes of the jobs API: what a submission may hold, and what the documentation shows of the answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.http.openapi import JOB, JOB_REQUEST
from jobs.placement import Placement

MAX_LIFE_S = 366 * 86_400
"""Longest ``expires_in_s``."""

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
Priority = Literal["high", "normal", "low", "bulk"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]

_MetadataKey = Annotated[str, Field(max_length=64)]
_MetadataValue = Annotated[str, Field(max_length=512, strict=True)]


class PlacementRequest(BaseModel):
    """What a job asks of the device that it runs on. At least one of the two."""

    model_config = ConfigDict(extra="forbid")

    device: (
        Annotated[str, Field(min_length=1, max_length=128, strict=True, pattern=r"[A-Za-z0-9]")] | None
    ) = Field(
        None,
        description="Words of the device's name, in any order and case, such as `h100`, `H100 80GB` or `cpu`.",
    )
    min_memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Memory of the engine's devices together, in 10^9 bytes."
    )

    @model_validator(mode="after")
    def _something(self) -> PlacementRequest:
        if self.device is None and self.min_memory_gb is None:
            raise ValueError("give device, min_memory_gb or both")
        return self

    def wish(self) -> Placement:
        """Return it as the core knows it."""
        return Placement(self.device, self.min_memory_gb)


class JobRequest(BaseModel):
    """Body of ``POST /v1/jobs``. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [JOB_REQUEST]})

    endpoint: Endpoint = Field("/v1/chat/completions", description="The OpenAI endpoint to call.")
    model: str | None = Field(None, description="Must agree with `input.model` where both are given.")
    input: dict[str, Any] = Field(description="The raw OpenAI request body.")
    priority: Priority = Field("normal", description="The lane to wait in; lanes are served in this order.")
    placement: PlacementRequest | None = Field(
        None, description="Which device it must run on; 400 `no_such_device` where no pool has it."
    )
    stream: bool | None = Field(
        None, description="Keep and publish deltas while it runs. Default: `input.stream`, or false."
    )
    metadata: Annotated[dict[_MetadataKey, _MetadataValue], Field(max_length=16)] | None = Field(
        None, description="Your own; at most 16 pairs of strings."
    )
    expires_in_s: Annotated[float, Field(gt=0, le=MAX_LIFE_S, allow_inf_nan=False)] | None = Field(
        None, description="Whole life in seconds; past it the job is `expired`."
    )
    queue_timeout_s: Annotated[float, Field(gt=0, le=MAX_LIFE_S, allow_inf_nan=False)] | None = Field(
        None, description="Seconds within which it must start; past them the job is `expired`."
    )
    timeout_s: Annotated[float, Field(gt=0, le=MAX_LIFE_S, allow_inf_nan=False)] | None = Field(
        None, description="Run time of an attempt in seconds; past it the job is `failed` with `timeout`."
    )
    max_attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        3, description="Attempts that may be lost, with their worker or by a failure worth retrying."
    )
    affinity_key: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None,
        description="Jobs with the same key prefer the worker that ran one last, whose prefix cache is warm."
        " Default: `input.prompt_cache_key`, or else a long system message or prompt.",
    )
    coalesce: bool = Field(
        False,
        description="Let an identical, deterministic job of yours that is under way answer this one too.",
    )


class JobTimings(BaseModel):
    """When things happened, in Unix seconds; null: not yet, or never."""

    queued_at: float
    started_at: float | None
    first_token_at: float | None
    finished_at: float | None
    queue_ms: int | None
    total_ms: int | None
    tokens_per_s: float | None


class JobUsage(BaseModel):
    """Token counts as the engine reported them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class JobFailure(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class JobObject(BaseModel):
    """A job."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB]})

    id: str
    object: Literal["job"]
    state: State
    endpoint: str = Field(
        description="The OpenAI endpoint it calls; `/v1/batches/chunk` for a piece of a batch."
    )
    model: str
    pool: str = Field(description="The pool whose workers run it.")
    priority: Literal["realtime", "high", "normal", "low", "bulk"]
    stream: bool
    metadata: dict[str, str]
    attempt: int = Field(description="Number of the current or last attempt, 0 before the first.")
    max_attempts: int
    position: int | None = Field(description="Jobs before it while queued; 0 is next.")
    eta_s: float | None = Field(
        description="Seconds until it starts, by what its pool was measured to do; null: not measured yet."
    )
    created_at: float
    expires_at: float | None
    queue_timeout_s: float | None
    timeout_s: float | None
    not_before: float | None = Field(description="When its next attempt is due, while it waits for that.")
    retry_of: str | None = Field(description="The job that it repeats.")
    retried_as: str | None = Field(description="The job that repeats it.")
    coalesced_with: str | None = Field(description="The identical job whose end is this one's too.")
    trace_id: str | None = Field(description="The trace that its attempts belong to (W3C Trace Context).")
    timings: JobTimings
    usage: JobUsage | None
    error: JobFailure | None
    cancel_requested: bool
    worker: str | None
    history: list[dict[str, Any]] = Field(description="Attempts that were given up.")
    warnings: list[dict[str, Any]] = Field(
        description="Said once, at the submission: `infeasible_deadline`, with `estimate_s`."
    )
    links: dict[str, str]
    result: dict[str, Any] | None = Field(
        None, description="The raw OpenAI response; not in lists and events."
    )
    partial: dict[str, Any] | None = Field(
        None,
        description="Of a job that did not succeed: the response as far as it went, where that is known.",
    )


class JobList(BaseModel):
    """One page of jobs."""

    object: Literal["list"]
    data: list[JobObject]
    has_more: bool
    next_cursor: str | None
