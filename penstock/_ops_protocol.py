"""The requests of those who run the queue: run jobs again, look at workers, drain them. Pure, as ``_protocol``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from penstock._protocol import Request, job_path

MAX_BULK = 1000
"""The most jobs that one request runs again."""


def retry(job_id: str, idempotency_key: str | None) -> Request:
    """Build ``POST /v1/jobs/{id}/retry``. Raises ValueError where the id is empty."""
    # As in submit(): our own retries of the request must find the new job, not make another.
    headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
    return Request("POST", job_path(job_id) + "/retry", headers=headers)


def dead_page(*, code: str | None, model: str | None, limit: int, after: str | None) -> Request:
    """Build ``GET /v1/dead`` for one page of up to ``limit`` jobs (1 to 100) behind the cursor ``after``."""
    fields = {"code": code, "model": model, "limit": limit, "after": after}
    return Request(
        "GET", "/v1/dead", {name: str(value) for name, value in fields.items() if value is not None}
    )


def retry_dead(
    job_ids: Iterable[str] | None, *, code: str | None, model: str | None, limit: int | None
) -> Request:
    """Build ``POST /v1/dead/retry``, for the jobs named or for those that match.

    Raises:
        ValueError: jobs are named and filters are given too; none or more than MAX_BULK are named, or one
            name is empty; the limit is not 1 to MAX_BULK.
    """
    filters = {"code": code, "model": model, "limit": limit}
    body: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    if job_ids is not None:
        if body:
            msg = "give either job ids or code, model and limit"
            raise ValueError(msg)
        ids = [job_ids] if isinstance(job_ids, str) else list(job_ids)
        if not 1 <= len(ids) <= MAX_BULK or not all(job_id.strip() for job_id in ids):
            msg = f"give 1 to {MAX_BULK} job ids, none of them empty"
            raise ValueError(msg)
        body = {"ids": ids}
    if limit is not None and not 1 <= limit <= MAX_BULK:
        msg = f"limit must be 1 to {MAX_BULK}"
        raise ValueError(msg)
    return _post("/v1/dead/retry", body)


def workers() -> Request:
    """Build ``GET /v1/workers``."""
    return Request("GET", "/v1/workers")


def drain_worker(name: str, timeout_s: float | None) -> Request:
    """Build ``POST /v1/workers/{name}/drain``.

    Raises:
        ValueError: the name is empty, or the time below 0 or infinite.
    """
    if not name or not name.strip():
        msg = "the worker's name is empty"
        raise ValueError(msg)
    if timeout_s is not None and not 0 <= timeout_s < float("inf"):
        msg = "timeout_s must be a number of seconds, 0 or more"
        raise ValueError(msg)
    # "@" may stand in a path (RFC 3986 section 3.3), and reads better in logs so.
    path = f"/v1/workers/{quote(name, safe='@')}/drain"
    return _post(path, {} if timeout_s is None else {"timeout_s": timeout_s})


def _post(path: str, body: dict[str, Any]) -> Request:
    encoded = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    return Request("POST", path, headers={"content-type": "application/json"}, body=encoded)
