"""Prometheus's HTTP service discovery: the metrics addresses of the live workers and coordinators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from api.http.asgi import json_response
from api.http.openapi import answers
from api.services import Services


class TargetGroup(BaseModel):
    """One worker or coordinator, as Prometheus's ``http_sd_config`` reads it."""

    targets: list[str] = Field(examples=[["10.0.0.7:9101"]])
    labels: dict[str, str] = Field(
        description="Labels of every series of this target. A worker's: `pool`, `worker`, `engine`, `host`. A "
        "coordinator's: `job` (`penstock-coordinator`), `host`.",
        examples=[{"pool": "default", "worker": "gpu0@host", "engine": "vllm", "host": "host"}],
    )


def worker_groups(workers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups of workers. One without a metrics address has none."""
    return [
        group
        for worker in workers
        for group in _group(
            worker,
            pool=worker.get("pool", "default"),
            worker=worker.get("name", worker["incarnation"]),
            engine=worker.get("engine") or "",
        )
    ]


def coordinator_groups(coordinators: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups of coordinators, under a scrape job of their own."""
    return [group for one in coordinators for group in _group(one, job="penstock-coordinator")]


def _group(process: Mapping[str, Any], **labels: str) -> list[dict[str, Any]]:
    url = urlsplit(process.get("metrics_url") or "")
    if not url.netloc:
        return []
    found = {"__scheme__": url.scheme, "__metrics_path__": url.path, **labels}
    return [{"targets": [url.netloc], "labels": {**found, "host": process.get("host") or ""}}]


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.get(
        "/v1/metrics/targets",
        operation_id="listMetricsTargets",
        summary="Prometheus targets",
        responses=answers(list[TargetGroup], 503),
    )
    async def targets() -> Response:
        """The metrics addresses of live workers and coordinators, for Prometheus's `http_sd_configs`. No api is listed."""
        groups = worker_groups(await services.store.workers())
        return json_response([*groups, *coordinator_groups(await services.coordinators.alive())])
