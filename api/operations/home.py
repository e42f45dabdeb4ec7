"""The page at ``/``: what this server is, whether it is ready, and where the rest is."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from fastapi import APIRouter, Request, Response

from api.http.asgi import json_response
from api.readiness import Report
from api.services import Services

_PAGE = Template(Path(__file__).with_name("home.html").read_text())
_PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
}
_LINKS = {
    "docs": "docs",
    "openapi": "openapi.json",
    "models": "v1/models",
    "health": "health",
    "metrics": "metrics",
}
"""Relative, so that they hold behind a proxy that adds a path."""


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""
    flower = services.settings.flower_url
    keyed = services.settings.keys_required

    @router.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        """A page for a browser, JSON for everyone else."""
        report = await services.readiness.report()
        if keyed:
            report = replace(report, models=())  # GET /v1/models lists them to those who have a key
        if "text/html" not in request.headers.get("accept", ""):
            return json_response(_facts(report, request.app.version, flower))
        return Response(_page(report, request.app.version, flower), 200, _PAGE_HEADERS, "text/html")


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


def _page(report: Report, version: str, flower: str | None) -> str:
    wrong = "; ".join(f"{name}: {report.checks[name]}" for name in report.missing)
    models = "".join(f"<li><code>{escape(name)}</code></li>" for name in report.models)
    row = (
        f'<a href="{escape(flower)}">{escape(flower)}</a>'
        if flower
        else "not on this machine, or not started"
    )
    return _PAGE.substitute(
        version=escape(version),
        state="not ready" if wrong else "ready",
        mood="bad" if wrong else "good",
        wrong=escape(wrong),
        models=models or "<li><code>GET /v1/models</code> lists them</li>",
        flower=row,
    )
