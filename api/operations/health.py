"""Is it alive, is it ready, and how is it doing."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.services import Services
from broker.db.errors import StoreUnavailableError

REDIS_PATIENCE_S = 2.0

router = APIRouter(tags=["operations"])


def get_services(request: Request) -> Services:
    """Return the process's services."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


@router.get("/health/live", summary="Is the process alive?")
async def live() -> dict[str, str]:
    """200 while the process runs."""
    return {"status": "live"}


@router.get(
    "/health/ready",
    summary="Will a job that is submitted now be run?",
    response_class=Response,
    responses={
        200: {
            "content": {
                "application/json": {
                    "example": {
                        "status": "ready",
                        "checks": {"redis": "ok", "envelope": "ok", "worker": "ok"},
                    }
                }
            }
        },
        503: {"description": "Something is missing; the body names it."},
    },
)
async def ready(services: ServicesDep) -> Response:
    """Check Redis, the queue's message format and that a worker is alive."""
    checks = {"redis": "ok", "envelope": "ok", "worker": "ok"}
    try:
        async with asyncio.timeout(REDIS_PATIENCE_S):
            await services.catalogue.refresh()  # what it has just said of a worker holds for the next request
    except (StoreUnavailableError, TimeoutError):
        checks = {"redis": "unreachable", "envelope": "unknown", "worker": "unknown"}
    else:
        if not services.envelope_ready:
            checks["envelope"] = "not published yet"
        if not services.catalogue.has_worker:
            checks["worker"] = "none is alive"
    missing = [name for name, state in checks.items() if state != "ok"]
    body: dict[str, Any] = {"status": "not_ready" if missing else "ready", "checks": checks}
    if missing:
        body["missing"] = missing
    return Response(msgspec.json.encode(body), 503 if missing else 200, media_type="application/json")


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(services: ServicesDep) -> Response:
    """The api's metrics in Prometheus's text format; the workers have their own."""
    return Response(generate_latest(services.registry), media_type=CONTENT_TYPE_LATEST)
