"""Batches: the list with its upload, and one batch with its rows that failed."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter

from api.console.frame import Entry, Frame, Page
from api.console.inside import segment
from api.console.pages.failed_rows import MOST_BYTES, FailedRow, failed_rows
from api.console.visit import Visit
from jobs.endpoints import BATCH_ENDPOINTS

ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
WINDOWS: Final = ("1h", "6h", "24h", "3d", "7d")
PRIORITIES: Final = ("bulk", "low", "normal", "high")
_LIMIT: Final = 25
_HTTP_OK: Final = 300


async def _list(visit: Visit) -> dict[str, Any]:
    found = await visit.get("/v1/batches", limit=_LIMIT, after=visit.query.get("after"))
    return {
        "batches": [_named(batch) for batch in found["data"]],
        "next": found["last_id"] if found["has_more"] else None,
        "endpoints": BATCH_ENDPOINTS,
        "windows": WINDOWS,
        "priorities": PRIORITIES,
    }


async def _one(visit: Visit) -> dict[str, Any]:
    batch = _named(await visit.get(f"/v1/batches/{segment(visit.params['batch_id'])}"))
    counts = batch["request_counts"]
    files = {batch[name] for name in ("output_file_id", "error_file_id", "input_file_id")} - {None}
    others = {batch[name] for name in ("retry_of", "retried_as")} - {None}
    return {
        "batch": batch,
        "files": await visit.kept("/v1/files", files) if visit.may("files") else files,
        "there": await visit.kept("/v1/batches", others),
        "ended": batch["status"] in ENDED,
        "share": (counts["completed"] + counts["failed"]) / counts["total"] if counts["total"] else 0.0,
        "rows": await _failed(visit, batch),
    }


def _named(batch: dict[str, Any]) -> dict[str, Any]:
    """Add the name of the file that the console made the batch of; None: something else made it."""
    return batch | {"filename": (batch["metadata"] or {}).get("filename")}


async def _failed(visit: Visit, batch: dict[str, Any]) -> list[FailedRow]:
    """Return the first failed rows of an ended batch; none, if its error file is gone."""
    if batch["error_file_id"] is None:
        return []
    path = f"/v1/files/{segment(batch['error_file_id'])}/content"
    answer = await visit.answer("GET", path, headers={"range": f"bytes=0-{MOST_BYTES - 1}"})
    return failed_rows(answer.body) if answer.status < _HTTP_OK else []


def register(router: APIRouter, frame: Frame) -> None:
    """Add the pages."""
    path, entry = "/console/batches", Entry("Work", "batches", "batches")
    frame.add(router, Page(path, "batches.html", "Batches", _list, entry))
    frame.add(router, Page(f"{path}/{{batch_id}}", "batch.html", "Batch", _one, within=path))
