"""The HTTP contract as pure functions, the client's side: how requests are built.

``docs/reference/http-api.md`` is the contract. Nothing here does I/O.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal
from urllib.parse import quote

from pydantic import BaseModel

from penstock._core.retry import may_have_arrived
from penstock.errors import (
    ArgumentError,
    PenstockError,
)

MAX_WAIT_S = 300
"""The longest wait that the server grants in one request."""

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


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
    """One HTTP request, relative to the base URL.

    Attributes:
        method, path, params, headers, body: as they are sent.
        extra_timeout_s: the wait that it asks of the server.
        max_s: seconds that one try may wait for the server; None leaves that to the client's timeout.
        upload: a file to send in place of a body.
        at_most_once: it must not reach the server twice, because the second time would do more.
    """

    method: Method
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    extra_timeout_s: float = 0.0
    max_s: float | None = None
    upload: Upload | None = None
    at_most_once: bool = False

    def __str__(self) -> str:
        """Return its method and path."""
        return f"{self.method} {self.path}"

    def repeatable(self, error: PenstockError) -> bool:
        """Whether it may be sent again after a try failed so. An upload from a pipe cannot."""
        if self.upload is not None and not self.upload.file.seekable():
            return False
        return not (self.at_most_once and may_have_arrived(error))


def segment(name: str, what: str) -> str:
    """Quote a name for use in a path; ``what`` names it in the message.

    Raises:
        ArgumentError: it is empty, is a dot segment (which would lead to another path), or is no Unicode text.
    """
    if not name or not name.strip():
        raise ArgumentError(f"{what} is empty")
    if name in {".", ".."}:
        raise ArgumentError(f"{what} cannot be {name!r}")
    try:
        return quote(
            name, safe="@"
        )  # "@" is allowed in a path (RFC 3986 section 3.3) and reads better in logs
    except UnicodeEncodeError as exc:
        raise ArgumentError(f"{what} {name!r} is not Unicode text") from exc


def header_value(value: str, what: str) -> str:
    """Return the value if a header can carry it. Raises ArgumentError, which does not show it."""
    if not (value.isascii() and value.isprintable()):
        raise ArgumentError(f"{what} may have printable ASCII characters only")
    return value


def job_path(job_id: str) -> str:
    """Return a job's path. Raises ArgumentError if the id is empty."""
    return f"/v1/jobs/{segment(job_id, 'the job id')}"


def given(**fields: object) -> dict[str, Any]:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def query(**fields: object) -> dict[str, str]:
    """Return the fields that are not None as query parameters. Raises ArgumentError if one is no Unicode text."""
    params = {name: str(value) for name, value in given(**fields).items()}
    for name, value in params.items():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise ArgumentError(f"{name} {value!r} is not Unicode text") from exc
    return params


def idempotent(key: str | None) -> dict[str, str]:
    """Return the header that makes a repeated request harmless. None makes a fresh key.

    Our own retries need it: a request whose answer was lost must find its result, not make a second one.
    """
    return {"idempotency-key": header_value(key or uuid.uuid4().hex, "the idempotency key")}


def with_json(
    method: Method,
    path: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    extra_timeout_s: float = 0.0,
) -> Request:
    """Build a request with a JSON body.

    Raises:
        ArgumentError: the body has a number that JSON cannot carry (NaN, infinity).
        TypeError: the body has an object that JSON cannot carry.
    """
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_plain)
    except ValueError as exc:
        raise ArgumentError(f"the request cannot be sent: {exc}") from exc
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
    if after:
        headers["last-event-id"] = header_value(after, "the event id")
    return Request("GET", path, headers=headers)


def get_job(job_id: str, wait_s: float | None = None) -> Request:
    """Build ``GET /v1/jobs/{id}``. Raises ArgumentError if the id is empty or the wait is out of range."""
    wait = wait_seconds(wait_s)
    return Request("GET", job_path(job_id), query(wait=wait or None), extra_timeout_s=wait)


def wait_seconds(wait_s: float | None) -> int:
    """Return whole seconds, rounded up: the Prefer header knows no others (RFC 7240 section 4.3).

    Raises:
        ArgumentError: the wait is out of range.
    """
    if wait_s is None:
        return 0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise ArgumentError(f"wait_s must be 0 to {MAX_WAIT_S} seconds; use wait() for longer")
    return math.ceil(wait_s)


def _plain(value: object) -> object:
    """Allow any mapping and any pydantic model in a request body."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")
