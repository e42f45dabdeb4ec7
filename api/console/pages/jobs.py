"""The jobs, newest first. The filters are in the address, so a view can be sent to a colleague."""

from __future__ import annotations

import time
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter

from api.console.frame import Entry, Frame, Page
from api.console.inside import segment
from api.console.visit import Visit

PATH: Final = "/console/jobs"
PAGE_SIZE: Final = 25

STATES: Final = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
LANES: Final = ("realtime", "high", "normal", "low", "bulk")
SINCE: Final = {"hour": 3600, "day": 86_400, "week": 7 * 86_400}


def register(router: APIRouter, frame: Frame) -> None:
    """Add the page."""
    frame.add(router, Page(PATH, "jobs.html", "Jobs", load, Entry("Observe", "jobs", "jobs:read")))


async def load(visit: Visit) -> dict[str, Any]:
    """Ask for the jobs that the filters name."""
    given = {
        name: visit.query.get(name, "").strip() for name in ("state", "model", "priority", "pool", "tenant")
    }
    filters = {name: value for name, value in given.items() if value}
    since = visit.query.get("since", "")
    span_s = SINCE.get(since)
    after = visit.query.get("after") or None
    page = await visit.get(
        "/v1/jobs",
        **filters,
        created_after=None if span_s is None else round(time.time() - span_s),
        limit=PAGE_SIZE,
        after=after,
    )
    models = (await visit.get("/v1/models"))["data"]
    kept = filters | ({"since": since} if span_s else {})
    return {
        "jobs": page["data"],
        "filters": given | {"since": since},
        "filtered": bool(kept),
        "states": STATES,
        "lanes": LANES,
        "spans": tuple(SINCE),
        "models": [model["id"] for model in models],
        "newest": None if after is None else f"?{urlencode(kept)}",
        "older": f"?{urlencode(kept | {'after': page['next_cursor']})}" if page["has_more"] else None,
    }


def address(job_id: str) -> str:
    """Return the path of a job's page, from the server's root."""
    return f"console/jobs/{segment(job_id)}"
