"""The playground: a chat or a completion with any model, streamed, and the code that does the same."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from api.console.frame import Entry, Frame, Page
from api.console.visit import Visit
from jobs.endpoints import CHAT, COMPLETIONS


async def _load(visit: Visit) -> dict[str, Any]:
    models = (await visit.get("/v1/models"))["data"]
    return {"models": [one for one in map(_choice, models) if one is not None]}


def _choice(card: dict[str, Any]) -> dict[str, Any] | None:
    """Return a model for the list of choices; None: it writes no text. One that names no endpoint may have any."""
    served = card.get("penstock", {}).get("endpoints") or []
    endpoints = [path for path in (CHAT, COMPLETIONS) if path in served]
    return {"id": card["id"], "endpoints": endpoints} if endpoints or not served else None


def register(router: APIRouter, frame: Frame) -> None:
    """Add the page."""
    entry = Entry("Work", "playground", "jobs:write", "realtime")
    frame.add(router, Page("/console/playground", "playground.html", "Playground", _load, entry, live=False))
