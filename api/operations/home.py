"""The address ``/``: a browser is led to the console; a program gets what this server is and where the rest is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from api.http.asgi import json_response
from api.readiness import Report
from api.services import Services

_LINKS = {
    "console": "console",
    "docs": "docs",
    "openapi": "openapi.json",
    "models": "v1/models",
    "health": "health",
    "metrics": "metrics",
}


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""
    flower = services.settings.flower_url
    keyed = services.settings.keys_required

    @router.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        """The console for a browser, JSON for everyone else."""
        if "text/html" in request.headers.get("accept", ""):
            # Relative, so that it holds behind a proxy that adds a path.
            return Response(None, 307, {"location": "console", "cache-control": "no-store", "vary": "accept"})
        report = await services.readiness.report()
        if keyed:
            report = replace(report, models=())  # GET /v1/models lists them to those who have a key
        return json_response(_facts(report, request.app.version, flower))


def _facts(report: Report, version: str, flower: str | None) -> dict[str, Any]:
    links = {name: f"/{path}" for name, path in _LINKS.items()}
    return {
        "name": "Penstock",
        "version": version,
        "status": "not_ready" if report.missing else "ready",
        "checks": report.checks,
        "models": report.models,
        "links": links | ({"flower": flower} if flower else {}),
    }
