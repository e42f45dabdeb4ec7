"""The requests of those who run the queue: run jobs again, steer queues, drain workers. Pure, as ``_protocol``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import quote

from penstock._core.protocol import Request, job_path

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
    return _with_body("POST", "/v1/dead/retry", body)


def workers() -> Request:
    """Build ``GET /v1/workers``."""
    return Request("GET", "/v1/workers")


def queues() -> Request:
    """Build ``GET /v1/queues``."""
    return Request("GET", "/v1/queues")


def pause(pool: str, *, paused: bool) -> Request:
    """Build ``POST /v1/queues/{pool}/pause`` or ``…/resume``. Raises ValueError where the name is empty."""
    return Request("POST", f"{_pool_path(pool)}/{'pause' if paused else 'resume'}")


def purge(pool: str, lane: str) -> Request:
    """Build ``DELETE /v1/queues/{pool}/{lane}``. Raises ValueError where a name is empty."""
    if not lane.strip():
        msg = "the lane's name is empty"
        raise ValueError(msg)
    return Request("DELETE", f"{_pool_path(pool)}/{quote(lane, safe='')}")


def change(job_id: str, *, priority: str | None, top: bool) -> Request:
    """Build ``PATCH /v1/jobs/{id}``. Raises ValueError where the id is empty, or nothing is to be changed."""
    if priority is None and not top:
        msg = "give priority, or top"
        raise ValueError(msg)
    fields = {"priority": priority, "top": top or None}
    body = {name: value for name, value in fields.items() if value is not None}
    return _with_body("PATCH", job_path(job_id), body)


def _pool_path(pool: str) -> str:
    if not pool.strip():
        msg = "the pool's name is empty"
        raise ValueError(msg)
    return f"/v1/queues/{quote(pool, safe='')}"


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
    return _with_body("POST", path, {} if timeout_s is None else {"timeout_s": timeout_s})


def _with_body(method: Literal["POST", "PATCH"], path: str, body: dict[str, Any]) -> Request:
    encoded = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    return Request(method, path, headers={"content-type": "application/json"}, body=encoded)
