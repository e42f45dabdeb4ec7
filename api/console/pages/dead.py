"""The dead jobs: grouped by why they ended and by model, and retried together."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter

from api.console.frame import Entry, Frame, Page
from api.console.visit import Visit
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.failures import FAILURES

PATH: Final = "/console/dead"
MOST: Final = 1000
"""Jobs that one call retries."""

_PAGE_SIZE = 25
_EXPIRED = "It did not start or end within its time limit."


def register(router: APIRouter, frame: Frame) -> None:
    """Add the page."""
    frame.add(router, Page(PATH, "dead.html", "Dead jobs", load, Entry("Observe", "dead", "jobs:read")))


async def load(visit: Visit) -> dict[str, Any]:
    """Ask for the groups, and for the jobs of the one that is chosen, or of all."""
    given = {name: visit.query.get(name, "").strip() for name in ("code", "model")}
    chosen = {name: value for name, value in given.items() if value}
    after = visit.query.get("after") or None
    groups = await visit.get("/v1/dead/groups")
    page = await visit.get("/v1/dead", **chosen, limit=_PAGE_SIZE, after=after)
    for group in groups["data"]:
        meaning = FAILURES.get(group["code"])
        group["meaning"] = _EXPIRED if meaning is None else meaning.sentence
        group["retryable"] = meaning is None or meaning.retryable
        group["body"] = {"code": group["code"], "model": group["model"], "limit": min(MOST, group["jobs"])}
        group["query"] = urlencode({"code": group["code"], "model": group["model"]})
        group["chosen"] = given == {"code": group["code"], "model": group["model"]}
    return {
        "groups": groups["data"],
        "more": groups["has_more"],
        "total": sum(group["jobs"] for group in groups["data"]),
        "jobs": page["data"],
        "chunk": CHUNK_ENDPOINT,
        "chosen": chosen,
        "newest": None if after is None else f"?{urlencode(chosen)}",
        "older": f"?{urlencode(chosen | {'after': page['next_cursor']})}" if page["has_more"] else None,
    }
