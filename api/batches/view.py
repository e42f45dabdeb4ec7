"""The batch object: OpenAI's, with Penstock's fields behind it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from api.http.errors import ApiError
from jobs.batch_model import Batch
from jobs.batch_rows import RowError
from jobs.batches import BatchStatus

_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class RowErrorObject(BaseModel):
    """What is wrong with an input file."""

    code: str = Field(examples=["invalid_json_line"])
    line: int | None
    message: str
    param: str | None


class Errors(BaseModel):
    """Why an input was refused: the first hundred errors."""

    object: Literal["list"]
    data: list[RowErrorObject]


class RequestCounts(BaseModel):
    """Rows. All zero while `validating`."""

    total: int
    completed: int
    failed: int


class BatchProgress(BaseModel):
    """How fast it goes. Null: not known (yet)."""

    rows_per_s: float | None
    tokens_per_s: float | None = Field(description="Completion tokens.")
    eta_s: float | None


class BatchUsage(BaseModel):
    """Tokens of all rows so far."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class BatchObject(BaseModel):
    """A batch. Fields from `priority` on are Penstock's own."""

    id: str = Field(examples=["batch_0199f3a2c4d57e8f9a0b1c2d3e4f5a6b"])
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: Errors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    priority: str
    progress: BatchProgress
    paused: bool
    pause_reason: str | None = Field(
        description="`paused_by_client`, `storage_full`, `storage_unavailable`, `storage_object_missing` or "
        "`internal_error`."
    )
    retry_of: str | None
    retried_as: str | None


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Verified(BaseModel):
    """What the files hold against what they should."""

    id: str
    object: Literal["batch.verification"]
    ok: bool
    total: int = Field(description="Rows of the input.")
    completed: int = Field(description="Lines of the output file.")
    failed: int = Field(description="Lines of the error file.")
    duplicates: int = Field(description="Lines whose `custom_id` has a line already.")
    missing: int = Field(description="Rows without a line.")
    unknown: int = Field(description="Lines whose `custom_id` is not in the input.")
    unreadable: int = Field(description="Lines that are not JSON, or have no `custom_id`.")
    examples: list[str] = Field(
        description="Where some of them stand: `missing: line 7 of input`.",
        examples=[["duplicate: line 3 of output"]],
    )


def usage_view(batch: Batch) -> dict[str, Any]:
    """Return the batch's usage object."""
    counts = batch.counts
    return {
        "input_tokens": counts.input_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens},
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.input_tokens + counts.output_tokens,
    }


def counts_view(batch: Batch) -> dict[str, int]:
    """Return the batch's request counts."""
    counts = batch.counts
    return {"total": counts.total, "completed": counts.completed, "failed": counts.failed}


def progress_view(batch: Batch) -> dict[str, float | None]:
    """Return how fast it goes."""
    running = batch.status is BatchStatus.IN_PROGRESS
    eta_s = batch.eta_s if running and not batch.paused else None
    return {
        "rows_per_s": batch.rows_per_s,
        "tokens_per_s": batch.tokens_per_s,
        "eta_s": None if eta_s is None else round(eta_s, 1),
    }


def pause_view(batch: Batch) -> dict[str, Any]:
    """Return whether and why it stands still."""
    reason = batch.hold or ("paused_by_client" if batch.paused else None)
    return {"paused": reason is not None, "pause_reason": reason}


def batch_view(batch: Batch) -> dict[str, Any]:
    """Return the batch object: every field, null rather than absent."""
    times = {f"{status}_at": _seconds(batch.times.get(status)) for status in _TIMES}
    errors = {"object": "list", "data": [_error(one) for one in batch.errors]} if batch.errors else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_ms // 1000,
        "expires_at": batch.expires_ms // 1000,
        **times,
        "request_counts": counts_view(batch),
        "usage": usage_view(batch),
        "metadata": None if batch.metadata is None else dict(batch.metadata),
        "priority": batch.priority.value,
        "progress": progress_view(batch),
        **pause_view(batch),
        "retry_of": batch.retry_of,
        "retried_as": batch.retried_as,
    }


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000


def _error(error: RowError) -> dict[str, Any]:
    return {"code": error.code.value, "line": error.line, "message": error.message, "param": error.param}


def batch_not_found(batch_id: str) -> ApiError:
    """Make the 404 for a batch."""
    return ApiError(404, f"No batch found with id '{batch_id[:64]}'", "batch_not_found", param="batch_id")
