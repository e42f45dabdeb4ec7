"""The workers: who is there, and telling one to drain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from api.docs import error_docs
from api.errors import ApiError
from api.services import Services


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
    device: str | None
    models: list[str]
    running: int = Field(description="Jobs it runs.")
    capacity: int | None = Field(description="Jobs it runs at once.")
    engine_running: int | None = Field(description="Requests in the engine's batch.")
    engine_waiting: int | None = Field(description="Requests the engine holds and has not scheduled.")
    kv_cache_usage: float | None = Field(description="0.0 to 1.0.")
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
    """Return the worker object. ``worker``: as of :meth:`broker.store.JobStore.workers`."""
    view = {name: worker.get(name) for name in WorkerObject.model_fields}
    given = {
        "id": worker["incarnation"],
        "object": "worker",
        "name": worker.get("name", worker["incarnation"]),
        "state": worker.get("state", "ready"),
        "pool": worker.get("pool", "default"),
        "models": worker.get("models", []),
        "running": worker.get("running", 0),
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
    async def drain_worker(name: str, request: DrainRequest | None = None) -> Response:
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
        return answer([worker | {"state": "draining"} for worker in told], 202)
