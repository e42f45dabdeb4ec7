"""The requests about files and batches, and the answers that are no JSON object. Pure, as ``_protocol``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from penstock._core.protocol import Reply, Request, Upload
from penstock.batch_models import ResultPage
from penstock.errors import APIResponseError

STORING_S = 600.0
"""How long the server may take, once it has the last byte of a file, to have it on its disk."""

VERIFYING_S = 3600.0
"""How long it may take to check a batch's files from the first row to the last."""


def upload(
    upload: Upload, *, purpose: str, expires_after_s: int | None, idempotency_key: str | None
) -> Request:
    """Build ``POST /v1/files``. A file that can be read again can also be sent again: the key makes it one file."""
    fields = {"purpose": purpose}
    if expires_after_s is not None:
        fields |= {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(expires_after_s)}
    return Request(
        "POST",
        "/v1/files",
        headers={"idempotency-key": idempotency_key or uuid.uuid4().hex},
        upload=upload.with_fields(fields),
        extra_timeout_s=STORING_S,
    )


def file(file_id: str) -> Request:
    """Build ``GET /v1/files/{id}``. Raises ValueError where the id is empty."""
    return Request("GET", _path("files", file_id))


def delete_file(file_id: str) -> Request:
    """Build ``DELETE /v1/files/{id}``. Raises ValueError where the id is empty."""
    return Request("DELETE", _path("files", file_id))


def content(file_id: str, offset: int) -> Request:
    """Build ``GET /v1/files/{id}/content`` from a byte on. Raises ValueError where the id is empty."""
    # A range of a compressed body would be a range of something else.
    headers = {"accept": "*/*", "accept-encoding": "identity"}
    if offset:
        headers["range"] = f"bytes={offset}-"
    return Request("GET", _path("files", file_id) + "/content", headers=headers)


def files_page(*, purpose: str | None, order: str | None, limit: int, after: str | None) -> Request:
    """Build ``GET /v1/files`` for one page."""
    return Request("GET", "/v1/files", _given(purpose=purpose, order=order, limit=limit, after=after))


def create(
    *,
    input_file_id: str,
    endpoint: str,
    completion_window: str,
    metadata: Mapping[str, str] | None,
    priority: str | None,
    idempotency_key: str | None,
) -> Request:
    """Build ``POST /v1/batches``."""
    fields = {
        "input_file_id": input_file_id,
        "endpoint": endpoint,
        "completion_window": completion_window,
        "metadata": None if metadata is None else dict(metadata),
        "priority": priority,
    }
    body = {name: value for name, value in fields.items() if value is not None}
    headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex, "content-type": "application/json"}
    encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Request("POST", "/v1/batches", headers=headers, body=encoded.encode("utf-8", "replace"))


def batch(batch_id: str) -> Request:
    """Build ``GET /v1/batches/{id}``. Raises ValueError where the id is empty."""
    return Request("GET", _path("batches", batch_id))


def act(batch_id: str, action: str) -> Request:
    """Build ``POST /v1/batches/{id}/{cancel,pause,resume,retry}``, each of which may be repeated."""
    return Request("POST", f"{_path('batches', batch_id)}/{action}")


def retry(batch_id: str, idempotency_key: str | None) -> Request:
    """Build ``POST /v1/batches/{id}/retry``."""
    headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
    return Request("POST", f"{_path('batches', batch_id)}/retry", headers=headers)


def verify(batch_id: str) -> Request:
    """Build ``GET /v1/batches/{id}/verify``, which reads all of the batch's files."""
    return Request("GET", f"{_path('batches', batch_id)}/verify", extra_timeout_s=VERIFYING_S)


def batches_page(*, order: str | None, limit: int, after: str | None) -> Request:
    """Build ``GET /v1/batches`` for one page."""
    return Request("GET", "/v1/batches", _given(order=order, limit=limit, after=after))


def events(batch_id: str, after: str) -> Request:
    """Build ``GET /v1/batches/{id}/events``."""
    headers = {"accept": "text/event-stream", "cache-control": "no-store"}
    if after:
        headers["last-event-id"] = after
    return Request("GET", f"{_path('batches', batch_id)}/events", headers=headers)


def results(batch_id: str, after: str | None, limit: int | None) -> Request:
    """Build ``GET /v1/batches/{id}/results`` for one page behind the cursor ``after``."""
    headers = {"accept": "application/jsonl"}
    return Request(
        "GET", f"{_path('batches', batch_id)}/results", _given(after=after, limit=limit), headers=headers
    )


def result_page(reply: Reply, after: str | None) -> ResultPage:
    """Read the answer to :func:`results`.

    Args:
        reply: a successful one.
        after: the cursor that was asked behind.

    Raises:
        APIResponseError: rows without a new cursor (they would come again and again), or a row cut short.
    """
    lines = reply.body
    cursor = reply.headers.get("x-next-cursor") or None
    if "x-incomplete" not in reply.headers:
        msg = "the server's answer is no page of a batch's results: is this a Penstock server's address?"
        raise APIResponseError(msg)
    if lines and (not lines.endswith(b"\n") or cursor in {None, after}):
        msg = "a page of results has a row that is cut short, or no cursor behind its rows"
        raise APIResponseError(msg)
    return ResultPage(lines, cursor or after, reply.headers["x-incomplete"].lower() == "true")


def rows(page: ResultPage) -> list[dict[str, Any]]:
    """Read a page's rows. Raises APIResponseError where one is not a JSON object."""
    found = []
    for line in page.lines.split(b"\n"):  # bytes.splitlines would also cut at a bare carriage return
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            msg = f"a row of the results is not a JSON object: {line[:200].decode(errors='replace')}"
            raise APIResponseError(msg)
        found.append(row)
    return found


def _path(kind: str, name: str) -> str:
    if not name or not name.strip():
        msg = f"the {'file' if kind == 'files' else 'batch'}'s id is empty"
        raise ValueError(msg)
    return f"/v1/{kind}/{quote(name, safe='')}"


def _given(**fields: object) -> dict[str, str]:
    return {name: str(value) for name, value in fields.items() if value is not None}
