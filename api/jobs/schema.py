"""The bodies of the jobs API: requests, which are checked, and answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.admission.request_bodies import CHAT_EXAMPLE
from api.admission.schema import at_most
from api.jobs.view import job_view
from broker.listing import DeathCode
from jobs.endpoints import CHAT, ENDPOINTS, JobEndpoint
from jobs.lanes import Lane
from jobs.model import Job, Succeeded, Timings, Usage
from jobs.names import DEVICE
from jobs.placement import Placement
from jobs.states import JobState

MAX_LIFE_S = 366 * 86_400
"""Longest time limit of a job."""

Priority = Literal["high", "normal", "low", "bulk"]
LaneName = Literal["realtime", "high", "normal", "low", "bulk"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]

_Seconds = Annotated[float, Field(gt=0, le=MAX_LIFE_S, allow_inf_nan=False)]
MAX_PAIRS = 16
_MetadataKey = Annotated[str, Field(max_length=64)]
_MetadataValue = Annotated[str, Field(max_length=512, strict=True)]

JOB_REQUEST: dict[str, Any] = {
    "endpoint": CHAT,
    "input": CHAT_EXAMPLE,
    "priority": "normal",
    "metadata": {"project": "demo"},
}

_JOB = Job(
    id="job_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b",
    state=JobState.SUCCEEDED,
    phase=Succeeded(Usage(12, 32, 44), "gpu0@host"),
    endpoint=CHAT,
    model="tiny-random",
    pool="default",
    lane=Lane.NORMAL,
    stream=False,
    tenant="default",
    metadata={"project": "demo"},
    timings=Timings(1795416551123, 1795416551130, None, 1795416551900),
    attempt=1,
    max_attempts=3,
    trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
_RESULT = {"id": ENDPOINTS[CHAT].response_id.format(_JOB.id), "object": "chat.completion", "choices": []}

JOB = job_view(_JOB) | {"result": _RESULT}


class PlacementRequest(BaseModel):
    """Requirements on the device that the job runs on. At least one of the two."""

    model_config = ConfigDict(extra="forbid")

    device: Annotated[str, Field(min_length=1, max_length=128, strict=True, pattern=DEVICE)] | None = Field(
        None,
        description="Words of the device's name, in any order and case, such as `h100`, `H100 80GB` or `cpu`.",
    )
    min_memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Memory of the engine's devices together, in 10^9 bytes."
    )

    @model_validator(mode="after")
    def _something(self) -> PlacementRequest:
        if self.device is None and self.min_memory_gb is None:
            raise ValueError("placement is empty; give device, min_memory_gb or both")
        return self

    def placement(self) -> Placement:
        """Return the core's form of it."""
        return Placement(self.device, self.min_memory_gb)


class JobRequest(BaseModel):
    """Body of ``POST /v1/jobs``. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [JOB_REQUEST]})

    endpoint: JobEndpoint = Field(CHAT, description="The OpenAI endpoint to call.")
    model: str | None = Field(None, description="Must equal `input.model` if both are given.")
    input: dict[str, Any] = Field(description="The raw OpenAI request body.")
    priority: Priority = Field("normal", description="The lane to wait in; lanes are served in this order.")
    placement: PlacementRequest | None = Field(
        None, description="Requirements on its device; 400 `no_such_device` if no pool meets them."
    )
    stream: bool | None = Field(
        None, description="Keep and publish deltas while it runs. Default: `input.stream`, or false."
    )
    metadata: (
        Annotated[dict[_MetadataKey, _MetadataValue], Field(max_length=MAX_PAIRS), at_most(MAX_PAIRS)] | None
    ) = Field(None, description=f"Your own data; at most {MAX_PAIRS} pairs of strings.")
    expires_in_s: _Seconds | None = Field(
        None, description="Seconds within which it must end; after them it is `expired`."
    )
    queue_timeout_s: _Seconds | None = Field(
        None, description="Seconds within which it must start; after them it is `expired`."
    )
    timeout_s: _Seconds | None = Field(
        None,
        description="Longest run of an attempt in seconds; a longer one makes it `failed` with `timeout`.",
    )
    max_attempts: Annotated[int, Field(ge=1, le=10)] = Field(
        3, description="Most attempts. A lost worker or a retryable failure costs one."
    )
    affinity_key: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None,
        description="Jobs with the same key prefer the worker that last ran one of them: its prefix cache is warm."
        " Default: `input.prompt_cache_key`, or else a digest of a long system message or prompt.",
    )
    coalesce: bool = Field(
        False,
        description="Let an identical, deterministic job of yours that is queued or running answer this one too.",
    )
    store: bool = Field(
        True,
        description="False: keep request and result until you have fetched the result, and at most `unstored_s` (5 minutes)."
        " `input.store: false` asks for the same. Such a job is not coalesced.",
    )
    webhook_url: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        None,
        description="Where its end is told, beside the webhooks of your tenant; signed with the secret of"
        " `GET /v1/webhooks/secret`.",
    )


class JobChange(BaseModel):
    """Body of ``PATCH /v1/jobs/{job_id}``."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority | None = Field(None, description="The lane to wait in from now on.")
    top: bool = Field(False, description="Make it the next of its lane.")

    @model_validator(mode="after")
    def _something(self) -> JobChange:
        if self.priority is None and not self.top:
            raise ValueError("the body asks for no change; give priority, or top: true")
        return self


class DeadRetryRequest(BaseModel):
    """Body of ``POST /v1/dead/retry``: the dead jobs to repeat; without any field, the latest 100."""

    model_config = ConfigDict(extra="forbid")

    ids: Annotated[list[str], Field(min_length=1, max_length=1000, fail_fast=True)] | None = Field(
        None, description="These jobs."
    )
    code: DeathCode | None = Field(None, description="Jobs that failed with this code, or `expired`.")
    model: str | None = Field(None, description="Jobs of this model.")
    limit: Annotated[int, Field(ge=1, le=1000)] = Field(100, description="Most jobs, the latest first.")

    @model_validator(mode="after")
    def _one_way(self) -> DeadRetryRequest:
        if self.ids is not None and (self.code is not None or self.model is not None):
            raise ValueError("ids excludes code and model; give either ids, or code and model")
        return self


class JobTimings(BaseModel):
    """Times in Unix seconds; null: not yet, or never."""

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
        description="The OpenAI endpoint it calls; `/v1/batches/chunk` for a chunk of a batch."
    )
    model: str
    tenant: str = Field(description="The tenant that it belongs to.")
    pool: str = Field(description="The pool whose workers run it.")
    priority: LaneName
    stream: bool
    store: bool = Field(
        description="False: its request and result are deleted once its result was fetched; after that it cannot be retried."
    )
    metadata: dict[str, str]
    attempt: int = Field(description="Number of the current or last attempt; 0 before the first.")
    max_attempts: int
    position: int | None = Field(description="Jobs before it while queued; 0 is next.")
    eta_s: float | None = Field(
        description="Estimated seconds until it starts, from its pool's measured rate; null: not measured yet."
    )
    created_at: float
    expires_at: float | None
    queue_timeout_s: float | None
    timeout_s: float | None
    not_before: float | None = Field(
        description="Earliest start of its next attempt, while it waits for that."
    )
    retry_of: str | None = Field(description="The job that it repeats.")
    retried_as: str | None = Field(description="The job that repeats it.")
    coalesced_with: str | None = Field(description="The identical job that answers this one too.")
    webhook_url: str | None
    trace_id: str | None = Field(description="The trace that its attempts belong to (W3C Trace Context).")
    timings: JobTimings
    usage: JobUsage | None
    error: JobFailure | None
    cancel_requested: bool
    worker: str | None
    history: list[dict[str, Any]] = Field(description="Attempts that ended without ending the job.")
    warnings: list[dict[str, Any]] = Field(
        description="Only in the answer to the submission: `infeasible_deadline`, with `estimate_s`, and `unknown_field`."
    )
    links: dict[str, str]
    result: dict[str, Any] | None = Field(
        None, description="The raw OpenAI response; null in lists and events."
    )
    partial: dict[str, Any] | None = Field(
        None,
        description="Of a job that did not succeed: its incomplete response, if there is one.",
    )


class JobList(BaseModel):
    """A page of jobs."""

    object: Literal["list"]
    data: list[JobObject]
    has_more: bool
    next_cursor: str | None


class DeadGroupObject(BaseModel):
    """Dead jobs of a model that ended for the same reason."""

    code: str = Field(description="The failure code, or `expired`.")
    model: str
    jobs: int
    latest_at: float = Field(description="When the last of them ended, Unix seconds.")


class DeadGroupList(BaseModel):
    """The groups, the largest first. ``has_more``: there are further dead jobs, which are not counted."""

    object: Literal["list"]
    data: list[DeadGroupObject]
    has_more: bool


class Retried(BaseModel):
    """The result for one job that was to be repeated."""

    id: str
    retried_as: str | None = Field(description="The new job; null if there is an error.")
    error: dict[str, Any] | None


class RetriedList(BaseModel):
    """The results, in order. ``has_more``: further dead jobs match the filter."""

    object: str = "list"
    data: list[Retried]
    has_more: bool
