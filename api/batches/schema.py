"""The bodies of the Batches API, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from jobs.batches import BatchStatus
from jobs.endpoints import BATCH_ENDPOINTS, CHAT

CREATE_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["input_file_id", "endpoint", "completion_window"],
                "properties": {
                    "input_file_id": {"type": "string"},
                    "endpoint": {"type": "string", "enum": list(BATCH_ENDPOINTS)},
                    "completion_window": {"type": "string", "pattern": "^[1-9][0-9]*[smhd]$"},
                    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    "output_expires_after": {
                        "type": "object",
                        "properties": {"anchor": {"const": "created_at"}, "seconds": {"type": "integer"}},
                    },
                    "priority": {"enum": ["high", "normal", "low", "bulk"], "default": "bulk"},
                    "webhook_url": {
                        "type": "string",
                        "maxLength": 2048,
                        "description": "Where its end is told, beside the webhooks of your tenant.",
                    },
                },
            },
            "example": {
                "input_file_id": "file-0199f3a2c4d57e8f9a0b1c2d3e4f5a6b",
                "endpoint": CHAT,
                "completion_window": "24h",
            },
        }
    },
}
"""``POST /v1/batches``."""


class RowErrorObject(BaseModel):
    """An error in an input file."""

    code: str = Field(examples=["invalid_json_line"])
    line: int | None
    message: str
    param: str | None


class Errors(BaseModel):
    """The first hundred errors of an input that was refused."""

    object: Literal["list"]
    data: list[RowErrorObject]


class RowWarning(BaseModel):
    """An unknown field of a batch's rows, with the first line that has it. At most 16 are listed."""

    code: Literal["unknown_field"]
    line: int
    message: str
    param: str = Field(examples=["body.max_token"])


class RequestCounts(BaseModel):
    """Rows. All zero while `validating`."""

    total: int
    completed: int
    failed: int


class BatchProgress(BaseModel):
    """Its rate. Null: not known, or not yet."""

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
        description="`paused_by_client`, `storage_full`, `storage_unavailable`, `storage_object_missing`, "
        "`encryption_key_unknown`, `decryption_failed` or `internal_error`."
    )
    retry_of: str | None
    retried_as: str | None
    webhook_url: str | None
    warnings: list[RowWarning] = Field(
        description="Fields in the rows' bodies that the endpoint does not have. Empty while `validating`, and if the "
        "input is refused."
    )


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Verified(BaseModel):
    """The result of a verification."""

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
        description="Places of some of them: `missing: line 7 of input`.",
        examples=[["duplicate: line 3 of output"]],
    )
