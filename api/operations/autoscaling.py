"""How much work a pool has, for whatever starts and ends its workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from api.http.asgi import json_response
from api.http.errors import ApiError
from api.http.openapi import answers
from api.services import Services
from broker.observe import worker_facts
from jobs.scaling import TARGET, Backlog, Replica, by_deadline, wanted


class AutoscalingObject(BaseModel):
    """The work of a pool. Rows of batches count as jobs, and chunks do not."""

    object: Literal["autoscaling"]
    pool: str
    value: int = Field(description="Jobs that wait or run: `queued` and `running` together.")
    queued: int = Field(
        description="Jobs that wait; of batches, rows that are neither done nor on an engine."
    )
    running: int = Field(description="Jobs and rows on engines.")
    slots: int = Field(description="Jobs that the live workers run at once; 0: there is none.")
    workers: int = Field(description="Live workers.")
    slots_per_replica: int | None = Field(
        description="Jobs that one worker runs at once: as declared, or as its workers registered; null: none ever did."
    )
    oldest_s: float = Field(description="Seconds that the longest waiting job has waited; 0: none waits.")
    deadline_in_s: float | None = Field(
        description="Seconds until the first deadline of a waiting job, or of a batch with rows left; null: there is none."
    )
    deadline_replicas: int = Field(
        description="Workers with which what waits starts before the first deadline of its lane, if it can; 0: no need."
    )
    replicas_wanted: int = Field(
        description="The larger of that and `value` / (`slots_per_replica` x `target`), rounded up."
    )


Target = Annotated[
    float,
    Query(gt=0, le=10_000, allow_inf_nan=False, description="Jobs for each slot, for `replicas_wanted`."),
]


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""
    catalogue = services.catalogue

    @router.get(
        "/v1/autoscaling/{pool}",
        operation_id="getAutoscaling",
        summary="What a pool needs",
        responses=answers(AutoscalingObject, 400, 404, 503),
    )
    async def get_autoscaling(
        pool: Annotated[str, Path(description="A pool, also one that has no worker yet.")],
        target: Target = TARGET,
    ) -> Response:
        """One object of numbers, for KEDA's `metrics-api` trigger (`valueLocation: value`) or a script of yours."""
        await catalogue.refresh(max_age_s=services.settings.catalogue_refresh_s)
        if pool not in catalogue.pools:
            message = f"the pool {pool[:64]!r} does not exist; the pools are: {', '.join(catalogue.pools)}"
            raise ApiError(404, message, "pool_not_found", param="pool")
        views = await services.store.queues([pool])
        read = await services.backlogs.read(views, map(worker_facts, catalogue.alive), catalogue.home)
        return json_response(_view(pool, read[pool], catalogue.replica(pool), target))


def _view(pool: str, backlog: Backlog, replica: Replica, target: float) -> dict[str, Any]:
    names = ("value", "queued", "running", "slots", "workers", "oldest_s", "deadline_in_s")
    return {
        "object": "autoscaling",
        "pool": pool,
        **{name: getattr(backlog, name) for name in names},
        "slots_per_replica": replica.slots,
        "deadline_replicas": by_deadline(backlog, replica),
        "replicas_wanted": wanted(backlog, replica, target),
    }
