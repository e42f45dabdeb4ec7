"""The HTTP contract as pure functions, the server's side: how its replies become models or errors.

``docs/reference/http-api.md`` is the contract. Nothing here does I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

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

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, or a piece of one that is streamed. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def parse(reply: Reply, model: type[M]) -> M:
    """Read a successful reply as ``model``.

    Raises:
        APIResponseError: the body is not JSON of this model.
    """
    try:
        return model.model_validate_json(reply.body)
    except ValidationError as exc:
        what = f"the server's answer is not a {model.__name__}: is this a Penstock server's address? ({exc})"
        raise unexpected(reply, what) from exc


def unexpected(reply: Reply, what: str) -> APIResponseError:
    """Return the error for a reply that is not what the contract says."""
    return APIResponseError(what, status=reply.status, headers=reply.headers, body=_content(reply.body))


def status_error(reply: Reply, now: datetime | None = None) -> APIStatusError:
    """Read an error reply. A body that is not OpenAI's error shape still gives an error with the status.

    Args:
        reply: a reply with a status outside 200 to 299.
        now: the present, for a Retry-After that is a date; None asks the clock.
    """
    fields: dict[str, Any] = {}
    body = _content(reply.body)
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        fields = body["error"]
    message = (
        fields.get("message")
        or _foreign(reply)
        or reply.body[:200].decode(errors="replace").strip()
        or "no message"
    )
    return status_error_class(reply.status)(
        str(message),
        status=reply.status,
        code=_text(fields.get("code")),
        type=_text(fields.get("type")),
        param=_text(fields.get("param")),
        retry_after=retry_after_s(reply.headers.get("retry-after"), now),
        headers=reply.headers,
        body=body,
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


def _foreign(reply: Reply) -> str | None:
    """Say of a web page that it is not an answer of Penstock; None for anything else, and for what a proxy says of a 5xx."""
    page = reply.headers.get("content-type", "").lower().startswith("text/html")
    if not page or reply.status >= 500:
        return None
    return "what answers is not Penstock, but sends a web page: is this the server's address?"


def _content(body: bytes) -> Any:
    """Return a body as JSON, or else as text; None if it is empty."""
    try:
        return json.loads(body)
    except ValueError:  # a proxy's page
        return body.decode(errors="replace") or None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
