"""The HTTP contract as pure functions: how requests are built, and how replies become models or errors.

``docs/reference/http-api.md`` is the contract. Nothing here does I/O.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from penstock.errors import (
    APIResponseError,
    APIStatusError,
    JobCancelledError,
    JobEndedError,
    JobExpiredError,
    JobFailedError,
    status_error_class,
)
from penstock.models import Job

MAX_WAIT_S = 300
"""The longest wait that the server grants in one request."""

M = TypeVar("M", bound=BaseModel)
Method = Literal["GET", "POST", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to send as multipart/form-data. It is read while it is sent.

    Attributes:
        file: open at its beginning. It is rewound before another try if it can seek.
        filename: the name that the server shows.
        fields: the form's other fields.
    """

    file: BinaryIO
    filename: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, relative to the base URL. ``extra_timeout_s`` is the wait that it asks of the server."""

    method: Method
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    extra_timeout_s: float = 0.0
    upload: Upload | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent again. An upload from a pipe cannot."""
        return self.upload is None or self.upload.file.seekable()


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, or a piece of one that is streamed. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def segment(name: str, what: str) -> str:
    """Quote a name for use in a path. Raises ValueError if it is empty; ``what`` names it in the message."""
    if not name or not name.strip():
        raise ValueError(f"{what} is empty")
    return quote(name, safe="@")  # "@" is allowed in a path (RFC 3986 section 3.3) and reads better in logs


def job_path(job_id: str) -> str:
    """Return a job's path. Raises ValueError if the id is empty."""
    return f"/v1/jobs/{segment(job_id, 'the job id')}"


def given(**fields: object) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def query(**fields: object) -> dict[str, str]:
    """Return the fields that are not None as query parameters."""
    return {name: str(value) for name, value in given(**fields).items()}


def idempotent(key: str | None) -> dict[str, str]:
    """Return the header that makes a repeated request harmless. None makes a fresh key.

    Our own retries need it: a request whose answer was lost must find its result, not make a second one.
    """
    return {"idempotency-key": key or uuid.uuid4().hex}


def with_json(
    method: Method,
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    extra_timeout_s: float = 0.0,
) -> Request:
    """Build a request with a JSON body.

    Raises:
        ValueError: the body has a number that JSON cannot carry (NaN, infinity).
        TypeError: the body has an object that JSON cannot carry.
    """
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
    return Request(
        method,
        path,
        headers={**(headers or {}), "content-type": "application/json"},
        # "replace" loses no text: only a lone surrogate, which UTF-8 cannot carry, becomes a question mark.
        body=text.encode("utf-8", "replace"),
        extra_timeout_s=extra_timeout_s,
    )


def event_stream(path: str, after: str) -> Request:
    """Build the request of an event stream that begins after the cursor; empty is the beginning."""
    headers = {"accept": "text/event-stream", "cache-control": "no-store"}
    return Request("GET", path, headers=headers | ({"last-event-id": after} if after else {}))


def get_job(job_id: str, wait_s: float | None = None) -> Request:
    """Build ``GET /v1/jobs/{id}``. Raises ValueError if the id is empty or the wait is out of range."""
    wait = wait_seconds(wait_s)
    return Request("GET", job_path(job_id), query(wait=wait or None), extra_timeout_s=wait)


def wait_seconds(wait_s: float | None) -> int:
    """Return whole seconds, rounded up: the Prefer header knows no others (RFC 7240 section 4.3).

    Raises:
        ValueError: the wait is out of range.
    """
    if wait_s is None:
        return 0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise ValueError(f"wait_s must be 0 to {MAX_WAIT_S} seconds; use wait() for longer")
    return math.ceil(wait_s)


def parse(reply: Reply, model: type[M]) -> M:
    """Read a successful reply as ``model``.

    Raises:
        APIResponseError: the body is not JSON of this model.
    """
    try:
        return model.model_validate_json(reply.body)
    except ValidationError as exc:
        raise APIResponseError(
            f"the server's answer is not a {model.__name__}: is this a Penstock server's address? ({exc})"
        ) from exc


def status_error(reply: Reply, now: datetime | None = None) -> APIStatusError:
    """Read an error reply. A body that is not OpenAI's error shape still gives an error with the status.

    Args:
        reply: a reply with a status outside 200 to 299.
        now: the present, for a Retry-After that is a date; None asks the clock.
    """
    fields: dict[str, Any] = {}
    try:
        body = json.loads(reply.body)
    except ValueError:
        body = None  # a proxy's page, shown as text below
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        fields = body["error"]
    message = fields.get("message") or reply.body[:200].decode(errors="replace").strip() or "no message"
    return status_error_class(reply.status)(
        str(message),
        status=reply.status,
        code=_text(fields.get("code")),
        type=_text(fields.get("type")),
        param=_text(fields.get("param")),
        retry_after=retry_after_s(reply.headers.get("retry-after"), now),
    )


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Read Retry-After (RFC 9110 section 10.2.3), seconds or a date; None if it is absent or unreadable."""
    if not value:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None  # the header is advice; our own backoff works without it
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((aware - (now or datetime.now(UTC))).total_seconds(), 0.0)


def ended_error(job: Job) -> JobEndedError | None:
    """Return the error for a job that ended without a result; None if it succeeded or has not ended."""
    if job.state == "failed":
        why = f"{job.error.code}: {job.error.message}" if job.error else "no reason given"
        return JobFailedError(f"{job.id} failed: {why}", job=job)
    if job.state == "cancelled":
        return JobCancelledError(f"{job.id} was cancelled", job=job)
    if job.state == "expired":
        return JobExpiredError(f"{job.id} expired before it was done", job=job)
    return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _plain(value: object) -> object:
    """Allow any mapping and any pydantic model in a request body."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")
