"""The live workers, and draining one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.access.identity import actor_of
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.errors import ApiError
from api.http.openapi import answers, body_docs
from api.middleware.trace import asked_by
from api.services import Services

log = structlog.get_logger(__name__)


class GpuObject(BaseModel):
    """A GPU of a worker. Null: the driver does not report it."""

    index: int
    uuid: str | None
    name: str | None
    utilization: float | None = Field(description="0.0 to 1.0.")
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None


class WorkerObject(BaseModel):
    """A live worker, as of its last heartbeat."""

    id: str = Field(description="Its incarnation, which changes with every start.")
    object: Literal["worker"]
    name: str = Field(examples=["gpu0@host"])
    state: Literal["ready", "draining", "asleep", "waking"] = Field(
        description="`asleep` and `waking`: its model shares its devices with others, and is not on them now."
    )
    host: str | None
    pid: int | None
    pool: str
    engine: str | None
    device: str | None = Field(
        description="Its device's name, or `cpu`; null if its engine is another server."
    )
    devices: int | None = Field(description="Number of devices that its engine uses.")
    device_memory_bytes: int | None = Field(description="Memory of these devices together.")
    models: list[str]
    aliases: list[str]
    adapters: list[str] = Field(description="LoRA adapters that its engine has loaded.")
    running: int = Field(description="Jobs it runs; a chunk of a batch is one.")
    chunks: int | None = Field(
        description="Chunks of batches among `running`; null from a worker of an earlier version."
    )
    rows: int | None = Field(description="Rows of batches on its engine; null as for `chunks`.")
    capacity: int | None = Field(description="Jobs it runs at once.")
    engine_running: int | None = Field(description="Requests in the engine's batch.")
    engine_waiting: int | None = Field(description="Requests the engine holds and has not scheduled.")
    kv_cache_usage: float | None = Field(description="0.0 to 1.0.")
    engine_priority: Literal["works", "ignored", "refused", "unknown"] | None = Field(
        description="Whether the engine runs calls before bulk that waits in it; null from a worker of an earlier version."
    )
    shares_storage: bool | None = Field(
        description="Whether it has the api's storage of files; null while it does not know. Large requests of its pool "
        "stay in Redis unless it is true."
    )
    tokens_per_s: float | None = Field(
        description="Tokens generated per second between the last two heartbeats; null until the second. An engine "
        "that does not count them reports those of the runs that ended."
    )
    jobs_per_s: float | None = Field(
        description="Jobs that ended per second between the last two heartbeats."
    )
    wait_ms: float | None = Field(
        description="Mean wait in the queue of the jobs that began since the heartbeat before; null if none began."
    )
    gpus: list[GpuObject] = Field(description="Its GPUs, as their driver reports them; empty if it has none.")
    started_at: float | None
    metrics_url: str | None


class WorkerList(BaseModel):
    """Workers."""

    object: Literal["list"]
    data: list[WorkerObject]


class DrainRequest(BaseModel):
    """Body of the drain call. Optional."""

    model_config = ConfigDict(extra="forbid")

    timeout_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] | None = Field(
        None,
        description="Seconds that running jobs get before they are given back. Default: the worker's `drain_timeout_s`.",
    )


def worker_view(worker: Mapping[str, Any]) -> dict[str, Any]:
    """Return the worker object. ``worker``: as of :meth:`broker.jobs.JobStore.workers`."""
    view = {name: worker.get(name) for name in WorkerObject.model_fields}
    given = {
        "id": worker["incarnation"],
        "object": "worker",
        "name": worker.get("name", worker["incarnation"]),
        "state": worker.get("state", "ready"),
        "pool": worker.get("pool", "default"),
        "models": worker.get("models", []),
        "aliases": worker.get("aliases", []),
        "adapters": worker.get("adapters", []),
        "running": worker.get("running", 0),
        "gpus": worker.get("gpus", []),
    }
    return view | given


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    store = services.store

    def listed(workers: list[dict[str, Any]], status: int = 200) -> Response:
        return json_response({"object": "list", "data": [worker_view(worker) for worker in workers]}, status)

    @router.get(
        "/v1/workers", operation_id="listWorkers", summary="List workers", responses=answers(WorkerList, 503)
    )
    async def list_workers() -> Response:
        """Every worker whose lease is alive."""
        return listed(await store.workers())

    @router.post(
        "/v1/workers/{name}/drain",
        operation_id="drainWorker",
        summary="Drain a worker",
        status_code=202,
        responses=answers(WorkerList, 400, 404, 413, 503, status=202),
        openapi_extra=body_docs(DrainRequest, {"timeout_s": 60}, required=False),
    )
    async def drain_worker(
        name: str,
        asked: Request,
        request: Annotated[DrainRequest | None, control_body(DrainRequest, optional=True)],
    ) -> Response:
        """The worker takes no more jobs, gives back those it cannot finish in time, and exits with status 0.

        A job that is given back loses no attempt. `name`: a worker's name, for every incarnation of it, or an id.
        """
        timeout_s = None if request is None else request.timeout_s
        named = [one for one in await store.workers() if name in {one.get("name"), one["incarnation"]}]
        by = actor_of(asked.scope)
        drained = [one for one in named if await store.drain(one["incarnation"], timeout_s, by=by)]
        if not drained:
            message = f"no live worker is named {name!r}; GET /v1/workers lists the live workers"
            raise ApiError(404, message, "worker_not_found", param="name")
        log.info(
            "drain_asked",
            workers=[one["incarnation"] for one in drained],
            timeout_s=timeout_s,
            tenant=asked_by(asked.scope),
        )
        return listed([one | {"state": "draining"} for one in drained], 202)
