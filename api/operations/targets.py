"""Where Prometheus finds the metrics of workers and coordinators: its HTTP service discovery, from the live leases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from api.http.openapi import error_docs
from api.services import Services


class TargetGroup(BaseModel):
    """One worker or coordinator, as Prometheus's ``http_sd_config`` reads it."""

    targets: list[str] = Field(examples=[["10.0.0.7:9101"]])
    labels: dict[str, str] = Field(
        description="Labels of every series of this target. A worker's: `pool`, `worker`, `engine`, `host`; a "
        "coordinator's: `job` (`penstock-coordinator`), `host`.",
        examples=[{"pool": "default", "worker": "gpu0@host", "engine": "vllm", "host": "host"}],
    )


def worker_groups(workers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups of workers; one without a metrics address has none.

    Args:
        workers: as of :meth:`broker.jobs.JobStore.workers`.
    """
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
    """Return the groups of coordinators, under a scrape job of their own.

    Args:
        coordinators: as of :meth:`broker.coordinators.Coordinators.alive`.
    """
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
        summary="Prometheus targets",
        tags=["operations"],
        response_class=Response,
        responses={200: {"model": list[TargetGroup]}, **error_docs(503)},
    )
    async def targets() -> Response:
        """Where every live worker and coordinator serves its metrics, for Prometheus's `http_sd_configs`; not the api."""
        groups = worker_groups(await services.store.workers())
        groups += coordinator_groups(await services.coordinators.alive())
        return Response(msgspec.json.encode(groups), media_type="application/json")
