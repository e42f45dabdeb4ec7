"""LoRA adapters as data: declare, list, look, pin and remove. A change reaches every worker of the pool at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path, Query, Request, Response

from api.access.identity import actor_of, owner_of
from api.admin.adapter_intake import take_in
from api.admin.adapter_schema import (
    AdapterChange,
    AdapterList,
    AdapterObject,
    AdapterRemoved,
    AdapterRequest,
    adapter_view,
)
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.errors import ApiError
from api.http.openapi import answers, body_docs
from api.http.pages import Limit, list_view, not_of_list
from api.middleware.trace import asked_by
from api.services import Services
from jobs.adapters import Adapter
from jobs.names import NAME

log = structlog.get_logger(__name__)

_EXAMPLE = {"name": "acme/sql", "pool": "chat", "source": "file-0199f3a2c4d57e8f9a0b1c2d3e4f5a6b"}
Pool = Annotated[str, Path(pattern=NAME, description="Its pool.")]
Name = Annotated[str, Path(max_length=512, description="Its name, which may contain slashes.")]


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    adapters = services.adapters

    @router.post(
        "/v1/admin/adapters",
        operation_id="createAdapter",
        summary="Add an adapter",
        status_code=201,
        responses=answers(AdapterObject, 400, 404, 413, 503, 507, status=201),
        openapi_extra=body_docs(AdapterRequest, _EXAMPLE),
    )
    async def add_adapter(
        asked: Request, request: Annotated[AdapterRequest, control_body(AdapterRequest)]
    ) -> Response:
        """Its files are checked and copied into storage, so the source may go. An adapter of this name gets these files:
        requests that run keep the files that they began with.
        """
        pool = await take_in(services, request, owner_of(asked.scope), actor_of(asked.scope))
        log.info("adapter_added", adapter=request.name, pool=pool, tenant=asked_by(asked.scope))
        return await _shown(services, pool, request.name, 201)

    @router.get(
        "/v1/admin/adapters",
        operation_id="listAdapters",
        summary="List adapters",
        responses=answers(AdapterList, 400, 503),
    )
    async def list_adapters(
        pool: Annotated[str | None, Query(max_length=64, description="Only those of this pool.")] = None,
        after: Annotated[
            str | None, Query(max_length=1024, description="The last adapter's id of the previous page.")
        ] = None,
        limit: Limit = 20,
    ) -> Response:
        """By pool and name, with what each live worker says of it."""
        every = await (adapters.all() if pool is None else adapters.of(await adapters.home(pool)))
        last = ("", "") if after is None else _place(after)
        rest = [one for one in every if (one.pool, one.name) > last]
        return json_response(list_view(await _views(services, rest[:limit]), more=len(rest) > limit))

    @router.get(
        "/v1/admin/adapters/{pool}/{name:path}",
        operation_id="getAdapter",
        summary="Get an adapter",
        responses=answers(AdapterObject, 400, 404, 503),
    )
    async def get_adapter(pool: Pool, name: Name) -> Response:
        """What is known of it, with what each live worker says of it."""
        return await _shown(services, await adapters.home(pool), name)

    @router.patch(
        "/v1/admin/adapters/{pool}/{name:path}",
        operation_id="updateAdapter",
        summary="Pin an adapter",
        responses=answers(AdapterObject, 400, 404, 413, 503),
        openapi_extra=body_docs(AdapterChange, {"pinned": True}),
    )
    async def change_adapter(
        pool: Pool, name: Name, asked: Request, request: Annotated[AdapterChange, control_body(AdapterChange)]
    ) -> Response:
        """Have workers keep it loaded, or no longer."""
        pool = await adapters.home(pool)
        if not await adapters.pin(pool, name, pinned=request.pinned, by=actor_of(asked.scope)):
            raise _not_found(pool, name)
        log.info(
            "adapter_pinned", adapter=name, pool=pool, pinned=request.pinned, tenant=asked_by(asked.scope)
        )
        return await _shown(services, pool, name)

    @router.delete(
        "/v1/admin/adapters/{pool}/{name:path}",
        operation_id="deleteAdapter",
        summary="Remove an adapter",
        responses=answers(AdapterRemoved, 400, 404, 503),
    )
    async def remove_adapter(pool: Pool, name: Name, asked: Request) -> Response:
        """Its name is no model any more. Requests that run end as they began."""
        pool = await adapters.home(pool)
        if not await adapters.remove(pool, name, by=actor_of(asked.scope)):
            raise _not_found(pool, name)
        log.info("adapter_removed", adapter=name, pool=pool, tenant=asked_by(asked.scope))
        return json_response({"id": f"{pool}/{name}", "object": "adapter", "deleted": True})


async def _views(services: Services, found: Sequence[Adapter]) -> list[dict[str, Any]]:
    """Return the objects of adapters, with what the live workers of their pools say."""
    live: dict[str, list[str]] = {one.pool: [] for one in found}
    for worker in await services.store.workers():
        live.get(worker.get("pool", "default"), []).append(worker["incarnation"])
    said = await services.adapters.reports([worker for workers in live.values() for worker in workers])
    return [adapter_view(one, live[one.pool], said) for one in found]


async def _shown(services: Services, pool: str, name: str, status: int = 200) -> Response:
    """Answer with one adapter. Raises ApiError: 404, there is none."""
    found = await services.adapters.get(pool, name)
    if found is None:
        raise _not_found(pool, name)
    (view,) = await _views(services, [found])
    return json_response(view, status)


def _place(ident: str) -> tuple[str, str]:
    """Read an adapter's id, ``pool/name``.

    Raises:
        ApiError: 400, it is none.
    """
    pool, _, name = ident.partition("/")
    if not (pool and name):
        raise not_of_list(ident, "an adapter")
    return pool, name


def _not_found(pool: str, name: str) -> ApiError:
    message = f"the pool {pool!r} has no adapter {name[:128]!r}; GET /v1/admin/adapters lists the adapters"
    return ApiError(404, message, "adapter_not_found", param="name")
