"""The queues: what waits where, and steering them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import structlog
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.http.errors import ApiError, invalid, job_not_found
from api.http.openapi import error_docs
from api.jobs.schema import JobObject, Priority
from api.jobs.submit import checked_id
from api.jobs.view import job_view
from api.middleware.trace import asked_by
from api.services import Services
from broker.queues import PoolView
from jobs.lanes import Lane
from jobs.states import JobState

log = structlog.get_logger(__name__)

LaneName = Literal["realtime", "high", "normal", "low", "bulk"]


class LaneObject(BaseModel):
    """A lane of a pool; lanes are served in the order of the list."""

    lane: LaneName
    queued: int = Field(description="Jobs that wait.")
    dispatched: int = Field(description="Of these, those that lie ready for a worker.")
    oldest_s: float | None = Field(description="Seconds that the oldest of them has waited in the lane.")


class TenantObject(BaseModel):
    """What a tenant has in a pool."""

    tenant: str
    queued: int
    active: int = Field(description="Jobs that run or are about to.")


class PoolObject(BaseModel):
    """A pool's queues."""

    object: Literal["pool"]
    pool: str
    paused: bool
    running: int = Field(description="Jobs on its engines.")
    slots: int = Field(description="Jobs that its live workers take at once.")
    max_active: int | None
    queued: int
    starts_per_s: float | None = Field(
        description="Jobs of the interactive lanes that started a second while others waited; null: not measured yet."
    )
    bulk_starts_per_s: float | None = Field(description="The same of the lane `bulk`.")
    mean_run_s: float | None
    lanes: list[LaneObject]
    tenants: list[TenantObject]


class PoolList(BaseModel):
    """The pools."""

    object: Literal["list"]
    data: list[PoolObject]


class Purged(BaseModel):
    """What a purge did."""

    object: Literal["purged"]
    pool: str
    lane: LaneName
    cancelled: int


class JobChange(BaseModel):
    """Body of ``PATCH /v1/jobs/{job_id}``."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority | None = Field(None, description="The lane to wait in from now on.")
    top: bool = Field(False, description="Make it the next of its lane.")

    @model_validator(mode="after")
    def _something(self) -> JobChange:
        if self.priority is None and not self.top:
            raise ValueError("give priority, or top: true")
        return self


def pool_view(view: PoolView) -> dict[str, Any]:
    """Return the pool object."""

    def seconds(ms: int | None) -> float | None:
        return None if ms is None else ms / 1000

    def rounded(rate: float | None) -> float | None:
        return None if rate is None else round(rate, 3)

    return {
        "object": "pool",
        "pool": view.pool,
        "paused": view.paused,
        "running": view.running,
        "slots": view.slots,
        "max_active": view.max_active,
        "queued": sum(lane.queued for lane in view.lanes),
        "starts_per_s": rounded(view.starts_per_s),
        "bulk_starts_per_s": rounded(view.bulk_starts_per_s),
        "mean_run_s": seconds(view.run_ms),
        "lanes": [
            {
                "lane": lane.lane.value,
                "queued": lane.queued,
                "dispatched": lane.dispatched,
                "oldest_s": seconds(lane.oldest_ms),
            }
            for lane in view.lanes
        ],
        "tenants": [
            {"tenant": tenant.tenant, "queued": tenant.queued, "active": tenant.active}
            for tenant in view.tenants
        ],
    }


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    store, catalogue = services.store, services.catalogue
    docs: dict[str, Any] = {"tags": ["operations"], "response_class": Response}

    def answer(value: Any) -> Response:
        return Response(msgspec.json.encode(value), media_type="application/json")

    async def known(pool: str) -> str:
        await catalogue.refresh(max_age_s=services.settings.catalogue_refresh_s)
        if pool not in catalogue.pools:
            message = f"there is no pool {pool!r}; there are: {', '.join(catalogue.pools)}"
            raise ApiError(404, message, "pool_not_found", param="pool")
        return pool

    @router.get(
        "/v1/queues", summary="List queues", responses={200: {"model": PoolList}, **error_docs(503)}, **docs
    )
    async def list_queues() -> Response:
        """Every pool with its lanes, what it was measured to do, and who has jobs in it."""
        await catalogue.refresh(max_age_s=services.settings.catalogue_refresh_s)
        views = await store.queues(catalogue.pools)
        return answer({"object": "list", "data": [pool_view(view) for view in views]})

    @router.post(
        "/v1/queues/{pool}/{action}",
        summary="Pause or resume a pool",
        responses={200: {"model": PoolObject}, **error_docs(404, 503)},
        **docs,
    )
    async def pause_pool(
        pool: str, action: Annotated[Literal["pause", "resume"], Path()], request: Request
    ) -> Response:
        """Paused: jobs are accepted and wait, and what runs goes on. Asked twice, it is as if asked once."""
        changed = await store.pause(await known(pool), paused=action == "pause")
        log.info(
            "pool_paused" if action == "pause" else "pool_resumed",
            pool=pool,
            changed=changed,
            tenant=asked_by(request.scope),
        )
        (view,) = await store.queues([pool])
        return answer(pool_view(view))

    @router.delete(
        "/v1/queues/{pool}/{lane}",
        summary="Purge a lane",
        responses={200: {"model": Purged}, **error_docs(400, 404, 503)},
        **docs,
    )
    async def purge_lane(pool: str, lane: LaneName, request: Request) -> Response:
        """Cancels every job that waits in the lane. What runs goes on."""
        cancelled = await store.purge(await known(pool), Lane(lane))
        log.info("lane_purged", pool=pool, lane=lane, cancelled=cancelled, tenant=asked_by(request.scope))
        return answer({"object": "purged", "pool": pool, "lane": lane, "cancelled": cancelled})

    _register_change(router, services)


def _register_change(router: APIRouter, services: Services) -> None:
    store = services.store

    @router.patch(
        "/v1/jobs/{job_id}",
        summary="Change a queued job's priority",
        responses={200: {"model": JobObject}, **error_docs(400, 404, 409, 503)},
        tags=["jobs"],
        response_class=Response,
    )
    async def change_job(job_id: str, change: JobChange, request: Request) -> Response:
        """Only a queued job can be moved."""
        lane = None if change.priority is None else Lane(change.priority)
        current = await store.get(checked_id(job_id))
        if current is not None and current.lane is Lane.REALTIME:
            raise invalid("a synchronous call cannot be moved", "job_id")
        state = await store.move(job_id, lane, top=change.top)
        if state is None:
            raise job_not_found(job_id)
        if state is not JobState.QUEUED:
            raise ApiError(409, f"{job_id} is {state}; only a queued job can be moved", "job_not_queued")
        log.info(
            "job_moved", job_id=job_id, lane=change.priority, top=change.top, tenant=asked_by(request.scope)
        )
        job = await store.get(job_id)
        if job is None:
            raise job_not_found(job_id)
        return Response(msgspec.json.encode(job_view(job)), media_type="application/json")
