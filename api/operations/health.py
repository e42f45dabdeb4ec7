"""Liveness, readiness and the api's metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.http.asgi import json_response
from api.services import Services
from broker.db.errors import StoreFaultError, StoreUnavailableError

REDIS_PATIENCE_S = 2.0

_OK = {"redis": "ok", "envelope": "ok", "worker": "ok"}
_READY = {"content": {"application/json": {"example": {"status": "ready", "checks": _OK}}}}


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.get("/health/live", summary="Is the process alive?", response_class=JSONResponse)
    async def live() -> dict[str, str]:
        """200 while the process runs."""
        return {"status": "live"}

    @router.get(
        "/health/ready",
        summary="Will a job that is submitted now run?",
        responses={200: _READY, 503: {"description": "A check failed; the body names it."}},
    )
    async def ready() -> Response:
        """Check Redis, the queue's message format and that a worker is alive."""
        checks = dict(_OK)
        try:
            async with asyncio.timeout(REDIS_PATIENCE_S):
                await services.catalogue.refresh()  # the next request must see the same workers
        except (StoreUnavailableError, TimeoutError):
            checks = {"redis": "unreachable", "envelope": "unknown", "worker": "unknown"}
        except StoreFaultError:
            checks = {"redis": "refuses a command", "envelope": "unknown", "worker": "unknown"}
        else:
            if not services.envelope_ready:
                checks["envelope"] = "not published yet"
            if not services.catalogue.has_worker:
                checks["worker"] = "none is alive"
        missing = [name for name, state in checks.items() if state != "ok"]
        body: dict[str, Any] = {"status": "not_ready" if missing else "ready", "checks": checks}
        if missing:
            body["missing"] = missing
        return json_response(body, 503 if missing else 200)

    @router.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        """The api's metrics in Prometheus's text format. Each worker serves its own."""
        return Response(generate_latest(services.registry), media_type=CONTENT_TYPE_LATEST)
