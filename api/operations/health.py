"""Liveness, readiness and the api's metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from api.access.identity import identity_of
from api.http.asgi import json_response
from api.readiness import CHECKS, OK
from api.services import Services
from jobs.access import Scope
from monitoring.metrics import WithoutTenants


class HealthReport(BaseModel):
    """What was checked, and how it is: `ok`, or why not."""

    status: str
    checks: dict[str, str]
    missing: list[str] | None = Field(None, description="The checks that failed.")
    models: list[str] | None = Field(None, description="The models of live workers; without API keys only.")


_FAILED: dict[int | str, dict[str, Any]] = {
    503: {"model": HealthReport, "description": "A check failed; `missing` names it."}
}


def _example(**more: Any) -> dict[int | str, dict[str, Any]]:
    example = {"status": "ready", "checks": CHECKS, **more}
    return {200: {"model": HealthReport, "content": {"application/json": {"example": example}}}, **_FAILED}


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    keyed = services.settings.keys_required
    without_tenants = WithoutTenants(services.registry)

    @router.get(
        "/health",
        operation_id="getHealth",
        summary="Is a model loaded?",
        responses=_example(models=["Qwen/Qwen2.5-7B-Instruct"]),
    )
    async def health() -> Response:
        """200 while a live worker serves a model, or a pool scales from zero; else 503.

        As `/health/ready`, and without API keys the models too.
        """
        report = await services.readiness.report()
        shown = (
            {} if keyed else {"models": report.models}
        )  # GET /v1/models lists them to those who have a key
        return json_response(_view(report.checks, report.missing, **shown), report.status)

    @router.get(
        "/health/live",
        operation_id="getLiveness",
        summary="Is the process alive?",
        response_class=JSONResponse,
    )
    async def live() -> dict[str, str]:
        """200 while the process runs."""
        return {"status": "live"}

    @router.get(
        "/health/ready",
        operation_id="getReadiness",
        summary="Will a job that is submitted now run?",
        responses=_example(),
    )
    async def ready() -> Response:
        """Check Redis, the queue's message format, and that a worker is alive or is started for what waits.

        The answer is at most a second old.
        """
        report = await services.readiness.report()
        return json_response(_view(report.checks, report.missing), report.status)

    @router.get(
        "/health/accepting",
        operation_id="getAcceptance",
        summary="Will a job that is submitted now be accepted?",
        responses=_example(checks={name: OK for name in CHECKS if name != "worker"}),
    )
    async def accepting() -> Response:
        """As `/health/ready`, but without a look at the workers: a job may wait for one. For an orchestrator's probes."""
        report = (await services.readiness.report()).without_worker()
        return json_response(_view(report.checks, report.missing), report.status)

    for path, answer in (
        ("/health", health),
        ("/health/accepting", accepting),
        ("/health/live", live),
        ("/health/ready", ready),
    ):  # for balancers
        head: dict[str, Any] = {
            "methods": ["HEAD"],
            "include_in_schema": False,
            "response_class": JSONResponse,
        }
        router.add_api_route(path, answer, **head)

    @router.get(
        "/metrics",
        operation_id="getMetrics",
        summary="Prometheus metrics",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics(request: Request) -> Response:
        """The api's metrics in Prometheus's text format. Each worker serves its own.

        With API keys, series of tenants are shown only to a key with the scope `metrics`.
        """
        seen = services.registry if identity_of(request.scope).may(Scope.METRICS) else without_tenants
        return Response(generate_latest(seen), media_type=CONTENT_TYPE_LATEST)


def _view(checks: dict[str, str], missing: list[str], **more: Any) -> dict[str, Any]:
    view: dict[str, Any] = {"status": "not_ready" if missing else "ready", "checks": checks, **more}
    return view | {"missing": missing} if missing else view
