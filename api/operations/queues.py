"""The queues: their depths, pausing a pool and purging a lane."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from api.access.identity import actor_of, identity_of
from api.http.asgi import json_response
from api.http.errors import ApiError
from api.http.openapi import answers
from api.middleware.trace import asked_by
from api.services import Services
from broker.queues import PoolView
from jobs.access import Identity, Scope
from jobs.lanes import Lane

log = structlog.get_logger(__name__)

LaneName = Literal["realtime", "high", "normal", "low", "bulk"]


class LaneObject(BaseModel):
    """A lane of a pool. Lanes are served in the order of the list."""

    lane: LaneName
    queued: int = Field(description="Jobs that wait.")
    oldest_s: float | None = Field(
        description="Seconds that the oldest of these jobs has waited in the lane."
    )


class TenantObject(BaseModel):
    """A tenant's jobs in a pool."""

    tenant: str
    queued: int
    active: int = Field(description="Jobs that run.")


class PoolObject(BaseModel):
    """A pool's queues."""

    object: Literal["pool"]
    pool: str
    paused: bool
    running: int = Field(description="Jobs on its engines.")
    slots: int = Field(description="Jobs that its live workers run at once.")
    max_active: int | None
    queued: int
    mean_run_s: float | None = Field(
        description="Mean run time of the jobs of the interactive lanes; null: not measured yet."
    )
    mean_bulk_run_s: float | None = Field(description="The same for the lane `bulk`.")
    lanes: list[LaneObject]
    tenants: list[TenantObject]


class PoolList(BaseModel):
    """The pools."""

    object: Literal["list"]
    data: list[PoolObject]


class Purged(BaseModel):
    """The result of a purge."""

    object: Literal["purged"]
    pool: str
    lane: LaneName
    cancelled: int


def pool_view(view: PoolView, identity: Identity) -> dict[str, Any]:
    """Return the pool object, as a caller may see it: tenants other than its own are for the scope ``metrics``."""
    sees_all = identity.may(Scope.METRICS)

    def seconds(ms: int | None) -> float | None:
        return None if ms is None else ms / 1000

    return {
        "object": "pool",
        "pool": view.pool,
        "paused": view.paused,
        "running": view.running,
        "slots": view.slots,
        "max_active": view.max_active,
        "queued": sum(lane.queued for lane in view.lanes),
        "mean_run_s": seconds(view.run_ms),
        "mean_bulk_run_s": seconds(view.bulk_run_ms),
        "lanes": [
            {
                "lane": lane.lane.value,
                "queued": lane.queued,
                "oldest_s": seconds(lane.oldest_ms),
            }
            for lane in view.lanes
        ],
        "tenants": [
            {"tenant": tenant.tenant, "queued": tenant.queued, "active": tenant.active}
            for tenant in view.tenants
            if sees_all or tenant.tenant == identity.tenant
        ],
    }


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    store, catalogue = services.store, services.catalogue

    async def pools() -> tuple[str, ...]:
        await catalogue.refresh(max_age_s=services.settings.catalogue_refresh_s)
        return catalogue.pools

    async def known(pool: str) -> str:
        names = await pools()
        if pool not in names:
            message = f"the pool {pool!r} does not exist; the pools are: {', '.join(names)}"
            raise ApiError(404, message, "pool_not_found", param="pool")
        return pool

    @router.get(
        "/v1/queues", operation_id="listQueues", summary="List queues", responses=answers(PoolList, 503)
    )
    async def list_queues(request: Request) -> Response:
        """Every pool with its lanes, its mean run times, and the tenants that have jobs in it.

        Without the scope `metrics`, of the tenants only the caller's own is listed.
        """
        views = await store.queues(await pools())
        identity = identity_of(request.scope)
        return json_response({"object": "list", "data": [pool_view(view, identity) for view in views]})

    @router.post(
        "/v1/queues/{pool}/{action}",
        operation_id="controlQueue",
        summary="Pause or resume a pool, or let it take all kinds of requests",
        responses=answers(PoolObject, 404, 503),
    )
    async def pause_pool(
        pool: str, action: Annotated[Literal["pause", "resume", "unpoison"], Path()], request: Request
    ) -> Response:
        """A paused pool accepts jobs and starts none; running jobs continue. Repeating the call changes nothing.
        After a rollout, the first version's name stands for the one that serves.

        `unpoison`: kinds of requests that killed engines of the pool, and are refused as `poisoned_kind`, are taken again.
        """
        if action == "unpoison":
            kinds = await store.unpoison(await known(pool), by=actor_of(request.scope))
            log.info("pool_unpoisoned", pool=pool, kinds=kinds, tenant=asked_by(request.scope))
            await catalogue.refresh()
            (view,) = await store.queues([pool])
            return json_response(pool_view(view, identity_of(request.scope)))
        changed = await store.pause(await known(pool), paused=action == "pause", by=actor_of(request.scope))
        log.info(
            "pool_paused" if action == "pause" else "pool_resumed",
            pool=pool,
            changed=changed,
            tenant=asked_by(request.scope),
        )
        (view,) = await store.queues([pool])
        return json_response(pool_view(view, identity_of(request.scope)))

    @router.delete(
        "/v1/queues/{pool}/{lane}",
        operation_id="purgeQueueLane",
        summary="Purge a lane",
        responses=answers(Purged, 400, 404, 503),
    )
    async def purge_lane(pool: str, lane: LaneName, request: Request) -> Response:
        """Cancels every job that waits in the lane. Running jobs continue."""
        cancelled = await store.purge(await known(pool), Lane(lane), by=actor_of(request.scope))
        log.info("lane_purged", pool=pool, lane=lane, cancelled=cancelled, tenant=asked_by(request.scope))
        return json_response({"object": "purged", "pool": pool, "lane": lane, "cancelled": cancelled})
