"""Prometheus's HTTP service discovery: the metrics addresses of the live workers."""

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
    """One worker, as Prometheus's ``http_sd_config`` reads it."""

    targets: list[str] = Field(examples=[["10.0.0.7:9101"]])
    labels: dict[str, str] = Field(
        description="Labels of every series of this target: `pool`, `worker`, `engine`, `host`.",
        examples=[{"pool": "default", "worker": "gpu0@host", "engine": "vllm", "host": "host"}],
    )


def target_groups(workers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups. A worker without a metrics address has none.

    Args:
        workers: as of :meth:`broker.jobs.JobStore.workers`.
    """
    groups = []
    for worker in workers:
        url = urlsplit(worker.get("metrics_url") or "")
        if not url.netloc:
            continue
        labels = {
            "__scheme__": url.scheme,
            "__metrics_path__": url.path,
            "pool": worker.get("pool", "default"),
            "worker": worker.get("name", worker["incarnation"]),
            "engine": worker.get("engine") or "",
            "host": worker.get("host") or "",
        }
        groups.append({"targets": [url.netloc], "labels": labels})
    return groups


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.get(
        "/v1/metrics/targets",
        summary="Prometheus targets",
        responses=answers(list[TargetGroup], 503),
    )
    async def targets() -> Response:
        """Every live worker's metrics address, for Prometheus's `http_sd_configs`. The api itself is not listed."""
        return json_response(target_groups(await services.store.workers()))
