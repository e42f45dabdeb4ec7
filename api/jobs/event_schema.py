"""The events of ``GET /v1/jobs/{job_id}/events``, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from api.jobs.schema import JobObject

_ID = Field(
    description="`<attempt>-<number>`, or `<attempt>-<number>.<part>`. Send it back as `Last-Event-ID` to continue after it."
)


class JobStateChange(BaseModel):
    """The data of an event that says a job's new state."""

    id: str
    state: Literal["queued", "running"]
    attempt: int


class JobStart(JobStateChange):
    """The data of an event that says that an attempt runs."""

    worker: str | None


class JobQueuedEvent(BaseModel):
    """The job waits: at first, or for its next attempt."""

    event: Literal["queued"]
    id: str = _ID
    data: JobStateChange


class JobRunningEvent(BaseModel):
    """The first attempt runs."""

    event: Literal["running"]
    id: str = _ID
    data: JobStart


class JobRestartedEvent(BaseModel):
    """Another attempt runs. Discard the chunks before it: the answer begins anew."""

    event: Literal["restarted"]
    id: str = _ID
    data: JobStart


class JobChunkEvent(BaseModel):
    """A part of the answer: a chunk, or an event, of the stream of the job's endpoint."""

    event: Literal["chunk"]
    id: str = _ID
    data: dict[str, Any]


class JobEndEvent(BaseModel):
    """The job ended. The last event."""

    event: Literal["succeeded", "failed", "cancelled", "expired"]
    id: str = _ID
    data: JobObject


class JobEvent(RootModel[JobQueuedEvent | JobRunningEvent | JobRestartedEvent | JobChunkEvent | JobEndEvent]):
    """One event of a job."""
