"""The queues: each pool's lanes, tenants and rates; pause and resume."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter

from api.console.frame import Entry, Frame, Page
from api.console.visit import Visit

PATH: Final = "/console"


def register(router: APIRouter, frame: Frame) -> None:
    """Add the page. It is the console's first."""
    entry = Entry("Observe", "queues", "jobs:read")
    frame.add(router, Page(PATH, "queues.html", "Queues", load, entry))


async def load(visit: Visit) -> dict[str, Any]:
    """Ask for the queues, and add them up."""
    pools = (await visit.get("/v1/queues"))["data"]
    for pool in pools:
        pool["most"] = max((lane["queued"] for lane in pool["lanes"]), default=0)
        pool["oldest_s"] = _oldest(pool)
        pool["tenants"].sort(key=lambda one: (-one["queued"], -one["active"], one["tenant"]))
    waits = [pool["oldest_s"] for pool in pools if pool["oldest_s"] is not None]
    return {
        "pools": pools,
        "totals": {
            "queued": sum(pool["queued"] for pool in pools),
            "running": sum(pool["running"] for pool in pools),
            "slots": sum(pool["slots"] for pool in pools),
            "oldest_s": max(waits, default=None),
            "paused": sum(pool["paused"] for pool in pools),
        },
    }


def _oldest(pool: dict[str, Any]) -> float | None:
    return max((lane["oldest_s"] for lane in pool["lanes"] if lane["oldest_s"] is not None), default=None)
