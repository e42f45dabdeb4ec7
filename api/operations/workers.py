"""The workers: who is there, and telling one to drain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import structlog
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.http.errors import ApiError
from api.http.openapi import error_docs
from api.middleware.trace import asked_by
from api.services import Services

log = structlog.get_logger(__name__)


class GpuObject(BaseModel):
    """A GPU of a worker. Null: it does not say."""

    index: int
    uuid: str | None
    name: str | None
    utilization: float | None = Field(description="0.0 to 1.0.")
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None


class WorkerObject(BaseModel):
    """A live worker, as it described itself with its last heartbeat."""

    id: str = Field(description="This incarnation: it changes with every start.")
    object: Literal["worker"]
    name: str = Field(examples=["gpu0@host"])
    state: Literal["ready", "draining"]
    host: str | None
    pid: int | None
    pool: str
    engine: str | None
    device: str | None = Field(
        description="Its device's name, or `cpu`; null where it is behind another server."
    )
    devices: int | None = Field(description="How many of them its engine uses.")
    device_memory_bytes: int | None = Field(description="Their memory together.")
    models: list[str]
    aliases: list[str]
    running: int = Field(description="Jobs it runs; a chunk of a batch is one.")
    chunks: int | None = Field(
        description="Chunks of batches among them; null from a worker of an earlier version."
    )
    rows: int | None = Field(description="Rows of batches on its engine; null likewise.")
    capacity: int | None = Field(description="Jobs it runs at once.")
    engine_running: int | None = Field(description="Requests in the engine's batch.")
    engine_waiting: int | None = Field(description="Requests the engine holds and has not scheduled.")
    kv_cache_usage: float | None = Field(description="0.0 to 1.0.")
    tokens_per_s: float | None = Field(
        description="Tokens generated between the last two heartbeats, a second; of engines that do not count, those of the "
        "runs that ended."
    )
    jobs_per_s: float | None = Field(description="Jobs that ended, likewise.")
    wait_ms: float | None = Field(
        description="What the jobs that began had waited in their queue, on average; null where none began."
    )
    gpus: list[GpuObject] = Field(description="What the driver says of its GPUs; empty where there is none.")
    started_at: float | None
    metrics_url: str | None


class WorkerList(BaseModel):
    """Workers."""

    object: Literal["list"]
    data: list[WorkerObject]


class DrainRequest(BaseModel):
    """Body of the drain call; may be left out."""

    model_config = ConfigDict(extra="forbid")

    timeout_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] | None = Field(
        None,
        description="Seconds for what runs; then it is given back. Default: the worker's `drain_timeout_s`.",
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
        "running": worker.get("running", 0),
        "gpus": worker.get("gpus", []),
    }
    return view | given


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    store = services.store
    docs: dict[str, Any] = {"tags": ["operations"], "response_class": Response}

    def answer(workers: list[dict[str, Any]], status: int = 200) -> Response:
        listed = {"object": "list", "data": [worker_view(worker) for worker in workers]}
        return Response(msgspec.json.encode(listed), status, media_type="application/json")

    @router.get(
        "/v1/workers",
        summary="List workers",
        responses={200: {"model": WorkerList}, **error_docs(503)},
        **docs,
    )
    async def list_workers() -> Response:
        """Every worker whose lease is alive."""
        return answer(await store.workers())

    @router.post(
        "/v1/workers/{name}/drain",
        summary="Drain a worker",
        status_code=202,
        responses={202: {"model": WorkerList}, **error_docs(400, 404, 503)},
        **docs,
    )
    async def drain_worker(name: str, asked: Request, request: DrainRequest | None = None) -> Response:
        """It takes no more jobs, gives back what it cannot finish in time, at no cost to those jobs, and ends with status 0.

        The name is a worker's (every incarnation of that name is told) or one incarnation's id.
        """
        timeout_s = None if request is None else request.timeout_s
        meant = [
            worker for worker in await store.workers() if name in {worker.get("name"), worker["incarnation"]}
        ]
        told = [worker for worker in meant if await store.drain(worker["incarnation"], timeout_s)]
        if not told:
            message = f"there is no live worker {name!r}; GET /v1/workers lists them"
            raise ApiError(404, message, "worker_not_found", param="name")
        log.info(
            "drain_asked",
            workers=[worker["incarnation"] for worker in told],
            timeout_s=timeout_s,
            tenant=asked_by(asked.scope),
        )
        return answer([worker | {"state": "draining"} for worker in told], 202)
