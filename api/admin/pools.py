"""Pools that scale from zero as data: declare, list and remove. Every process knows a change within two seconds."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Request, Response

from api.access.identity import actor_of
from api.admin.pool_schema import DeclaredPoolList, DeclaredPoolObject, PoolRequest, declared_view
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.errors import ApiError
from api.http.openapi import answers, body_docs
from api.middleware.trace import asked_by
from api.services import Services
from broker.db.calls.declared import Declared
from jobs.declared import DeclaredPool
from jobs.names import NAME

log = structlog.get_logger(__name__)

_EXAMPLE = {"model": "Qwen/Qwen2.5-7B-Instruct", "aliases": ["chat"], "slots": 256}
Pool = Annotated[str, Path(pattern=NAME, description="The pool.")]


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    declared, catalogue = services.declared, services.catalogue

    @router.get(
        "/v1/admin/pools",
        operation_id="listDeclaredPools",
        summary="List declared pools",
        responses=answers(DeclaredPoolList, 503),
    )
    async def list_declared_pools() -> Response:
        """The pools that scale from zero, by name. `GET /v1/queues` lists all pools."""
        return json_response({"object": "list", "data": [declared_view(one) for one in await declared.all()]})

    @router.put(
        "/v1/admin/pools/{pool}",
        operation_id="declarePool",
        summary="Declare a pool",
        responses=answers(DeclaredPoolObject, 400, 409, 413, 503),
        openapi_extra=body_docs(PoolRequest, _EXAMPLE),
    )
    async def put_declared_pool(
        pool: Pool, body: Annotated[PoolRequest, control_body(PoolRequest)], request: Request
    ) -> Response:
        """From now on requests for its model are queued although no worker is alive, and wait within their time limits.

        Your autoscaler starts workers for what waits, by `GET /v1/autoscaling/{pool}`. What the first one registers of its
        model then counts, and stays known. Another model is refused while jobs or rows of batches wait for the one before
        (409 `jobs_waiting`), as its workers would fail them. `force` does it nevertheless, and takes names of pools that are
        gone.
        """
        one = body.declared(pool)
        answer = await declared.put(one, actor_of(request.scope), force=body.force)
        if refusal := _refusal(one, answer):
            raise refusal
        changed = answer.kind == "changed"
        log.info("pool_declared", pool=pool, model=one.model, changed=changed, tenant=asked_by(request.scope))
        await catalogue.refresh()
        return json_response(declared_view(one))

    @router.delete(
        "/v1/admin/pools/{pool}",
        operation_id="deleteDeclaredPool",
        summary="Remove a declared pool",
        responses=answers(DeclaredPoolObject, 400, 404, 503),
    )
    async def remove_declared_pool(pool: Pool, request: Request) -> Response:
        """Calls for its model are refused again while it has no worker. Jobs that wait stay, until a worker comes, their
        time is over, or `DELETE /v1/queues/{pool}/{lane}` ends them. One that the settings declare returns at the next start
        of an api process.
        """
        known = next((one for one in await declared.all() if one.pool == pool), None)
        if known is None or not await declared.remove(pool, actor_of(request.scope)):
            message = f"no pool {pool!r} was declared; GET /v1/admin/pools lists the declared pools"
            raise ApiError(404, message, "pool_not_found", param="pool")
        log.info("pool_undeclared", pool=pool, tenant=asked_by(request.scope))
        await catalogue.refresh()
        return json_response(declared_view(known))


def _refusal(one: DeclaredPool, answer: Declared) -> ApiError | None:
    """Return why a pool was not declared; None: it was."""
    if answer.kind == "name":
        where = "as an alias" if answer.pool is None else f"in the pool {answer.pool!r}"
        message = f"{answer.name[:256]!r} means the model {answer.model!r} {where}; choose another name, or remove that one"
        if answer.gone:
            message = f"{message}; no worker of it is alive, so `force` takes the name"
        param = "model" if answer.name == one.model else "aliases"
        return ApiError(409, message, "name_taken", param=param)
    if answer.kind == "waiting":
        message = (
            f"{answer.jobs} jobs and {answer.rows} rows of batches wait in the pool {one.pool!r} for {answer.model!r}; "
            f"workers of {one.model[:256]!r} would fail them: wait, end the jobs with "
            f"DELETE /v1/queues/{one.pool}/{{lane}} and cancel the batches, or say `force`"
        )
        return ApiError(409, message, "jobs_waiting", param="model")
    return None
