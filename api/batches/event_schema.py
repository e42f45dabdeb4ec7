"""The events of ``GET /v1/batches/{batch_id}/events``, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, RootModel

from api.batches.schema import BatchObject, BatchProgress, BatchUsage, RequestCounts
from jobs.batches import BatchStatus

_ID = Field(description="A number. Send it back as `Last-Event-ID` to continue after it.")


class BatchProgressReport(BatchProgress):
    """The data of an event of progress."""

    id: str
    status: BatchStatus
    request_counts: RequestCounts
    paused: bool
    pause_reason: str | None
    usage: BatchUsage


class BatchProgressEvent(BaseModel):
    """The batch changed."""

    event: Literal["progress"]
    id: str = _ID
    data: BatchProgressReport


class BatchEndEvent(BaseModel):
    """The batch ended. The last event."""

    event: Literal["completed", "failed", "expired", "cancelled"]
    id: str = _ID
    data: BatchObject


class BatchEvent(RootModel[BatchProgressEvent | BatchEndEvent]):
    """One event of a batch."""
