"""The HTTP contract as pure functions: arguments to requests, replies to models or errors. No I/O, no clock.

``docs/reference/http-api.md`` is the contract; both clients are thin shells over this module and ``_flows``.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
"""The longest wait the server grants in one request."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be sent as multipart/form-data, read as it goes out.

    Attributes:
        file: open at its beginning; where it can seek, it is rewound when the request is sent again.
        filename: the name the server shall know.
        fields: the form's other fields.
    """

    file: BinaryIO
    filename: str
    fields: Mapping[str, str] = field(default_factory=dict)

    def with_fields(self, fields: Mapping[str, str]) -> Upload:
        """Return this upload with these fields in its form."""
        return replace(self, fields=fields)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, relative to the base URL; ``extra_timeout_s`` is the wait asked of the server."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    extra_timeout_s: float = 0.0
    upload: Upload | None = None

    @property
    def repeatable(self) -> bool:
        """Whether it can be sent again: not where a pipe was being read."""
        return self.upload is None or self.upload.file.seekable()


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole HTTP answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def submit(
    body: Mapping[str, Any],
    *,
    model: str | None,
    endpoint: str,
    priority: str | None,
    placement: Mapping[str, Any] | None,
    stream: bool | None,
    metadata: Mapping[str, str] | None,
    expires_in_s: float | None,
    queue_timeout_s: float | None,
    timeout_s: float | None,
    max_attempts: int | None,
    affinity_key: str | None,
    coalesce: bool,
    wait_s: float | None,
    idempotency_key: str | None,
) -> Request:
    """Build ``POST /v1/jobs``; fields that are None are left to the server's defaults.

    Raises:
        ValueError: the wait is out of range, or the body is not JSON (NaN and infinities are not).
        TypeError: the body holds an object that JSON cannot carry.
    """
    fields = {
        "endpoint": endpoint,
        "model": model,
        "input": body,
        "priority": priority,
        "placement": placement,
        "stream": stream,
        "metadata": metadata,
        "expires_in_s": expires_in_s,
        "queue_timeout_s": queue_timeout_s,
        "timeout_s": timeout_s,
        "max_attempts": max_attempts,
        "affinity_key": affinity_key,
        "coalesce": coalesce or None,
    }
    payload = {name: value for name, value in fields.items() if value is not None}
    # The key makes our own retries safe: a submission whose answer was lost is found again, not run twice.
    headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex, "content-type": "application/json"}
    wait = _wait_seconds(wait_s)
    if wait:
        headers["prefer"] = f"wait={wait}"
    encoded = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
    # "replace" cannot lose text: only a lone surrogate, which no UTF-8 can carry, becomes a question mark.
    content = encoded.encode("utf-8", "replace")
    return Request("POST", "/v1/jobs", headers=headers, body=content, extra_timeout_s=wait)


def get(job_id: str, wait_s: float | None = None) -> Request:
    """Build ``GET /v1/jobs/{id}``. Raises ValueError where the id is empty or the wait out of range."""
    wait = _wait_seconds(wait_s)
    return Request("GET", job_path(job_id), {"wait": str(wait)} if wait else {}, extra_timeout_s=wait)


def cancel(job_id: str) -> Request:
    """Build ``POST /v1/jobs/{id}/cancel``. Raises ValueError where the id is empty."""
    return Request("POST", job_path(job_id) + "/cancel")


def events(job_id: str, after: str | None) -> Request:
    """Build ``GET /v1/jobs/{id}/events`` from behind the cursor ``after``; None or empty is the beginning."""
    headers = {"accept": "text/event-stream", "cache-control": "no-store"}
    if after:
        headers["last-event-id"] = after
    return Request("GET", job_path(job_id) + "/events", headers=headers)


def jobs_page(
    *,
    state: str | None,
    model: str | None,
    created_after: float | None,
    created_before: float | None,
    order: str | None,
    limit: int,
    after: str | None,
) -> Request:
    """Build ``GET /v1/jobs`` for one page of up to ``limit`` jobs (1 to 100) behind the cursor ``after``."""
    fields = {
        "state": state,
        "model": model,
        "created_after": created_after,
        "created_before": created_before,
        "order": order,
        "limit": limit,
        "after": after,
    }
    params = {name: str(value) for name, value in fields.items() if value is not None}
    return Request("GET", "/v1/jobs", params)


def parse(reply: Reply, model: type[M]) -> M:
    """Read a successful reply as ``model``.

    Raises:
        APIResponseError: the body is not JSON of this model.
    """
    try:
        return model.model_validate_json(reply.body)
    except ValidationError as exc:
        msg = f"the server's answer is not a {model.__name__}: is this a Penstock server's address? ({exc})"
        raise APIResponseError(msg) from exc


def status_error(reply: Reply, now: datetime | None = None) -> APIStatusError:
    """Read an error reply; a body that is not OpenAI's error shape still gives an error with the status.

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
    """Read Retry-After (RFC 9110 section 10.2.3), seconds or a date; None where absent or unreadable."""
    if not value:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None  # unreadable: the header is advice, our own backoff does without it
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((aware - (now or datetime.now(UTC))).total_seconds(), 0.0)


def ended_error(job: Job) -> JobEndedError | None:
    """Return the error that a job's end amounts to; None where it succeeded or is not over."""
    if job.state == "failed":
        why = f"{job.error.code}: {job.error.message}" if job.error else "no reason given"
        return JobFailedError(f"{job.id} failed: {why}", job=job)
    if job.state == "cancelled":
        return JobCancelledError(f"{job.id} was cancelled", job=job)
    if job.state == "expired":
        return JobExpiredError(f"{job.id} expired before it was done", job=job)
    return None


def job_path(job_id: str) -> str:
    """Return a job's path. Raises ValueError where the id is empty."""
    if not job_id or not job_id.strip():
        msg = "the job id is empty"
        raise ValueError(msg)
    return "/v1/jobs/" + quote(job_id, safe="")


def _wait_seconds(wait_s: float | None) -> int:
    """Whole seconds, rounded up, as the Prefer header knows no others (RFC 7240 section 4.3)."""
    if wait_s is None:
        return 0
    if not 0 <= wait_s <= MAX_WAIT_S:
        msg = f"wait_s must be 0 to {MAX_WAIT_S} seconds; wait() waits longer"
        raise ValueError(msg)
    return math.ceil(wait_s)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _plain(value: object) -> object:
    """Let any mapping and any pydantic model stand in a request body."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    msg = f"{type(value).__name__} cannot be sent as JSON"
    raise TypeError(msg)
