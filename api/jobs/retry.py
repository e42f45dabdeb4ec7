"""Repeating finished jobs, one or many, and the list of the dead ones."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response
from msgspec.structs import replace
from starlette.types import Scope

from api.access.identity import actor_of, identity_of, owner_of, tenant_of
from api.admission.accept import accept
from api.admission.rights import check_lane
from api.admission.routing import check_model
from api.http.asgi import json_response
from api.http.bodies import SMALL_BYTES
from api.http.body import control_body
from api.http.errors import ApiError, invalid
from api.http.handlers import foreign_errors
from api.http.idempotency import idempotency_key, key_parameter
from api.http.openapi import answers, body_docs
from api.http.pages import After, Limit, decode_cursor
from api.http.rates import rate_headers
from api.jobs.schema import DeadGroupList, DeadRetryRequest, JobList, JobObject, RetriedList
from api.jobs.view import checked_id, found_job, job_not_found, job_view, page_view
from api.middleware.trace import asked_by, request_span
from api.services import Services
from broker.acceptance import Accepted
from broker.db.errors import (
    BodyGoneError,
    BusyError,
    InfeasibleError,
    NewerRecordError,
    OverQuotaError,
    QueueFullError,
    StoreFaultError,
    UnfinishedError,
)
from broker.listing import DeathCode
from broker.sealing import REQUEST
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.sealing import SealingError
from monitoring.trace_context import TraceContext

log = structlog.get_logger(__name__)

_REFUSALS = (
    ApiError,
    BodyGoneError,
    SealingError,
    UnfinishedError,
    QueueFullError,
    OverQuotaError,
    BusyError,
    InfeasibleError,
    NewerRecordError,
    StoreFaultError,
)
"""Errors of one job that do not stop the repetition of many."""

_ANSWERS = foreign_errors()


async def _repeat(services: Services, job_id: str, scope: Scope, key: str | None = None) -> Accepted:
    """Accept a job's request once more, or find its earlier repetition.

    Raises:
        ApiError: 400, it is a chunk of a batch; 404, the job does not exist, or is another tenant's, or its model is not its
            tenant's; 403, the tenant may not use its lane.
        OverQuotaError: the tenant has used up a quota.
        UnfinishedError: it has not ended.
        QueueFullError: the lane is full.
        StoreUnavailableError: Redis is away.
    """
    size = await services.store.body_bytes(checked_id(job_id), REQUEST, owner=owner_of(scope))
    async with services.large_bodies if size > SMALL_BYTES else nullcontext():
        return await _repeat_now(services, job_id, scope, key)


async def _repeat_now(services: Services, job_id: str, scope: Scope, key: str | None) -> Accepted:
    spec = await services.store.respec(job_id, services.new_job_id(), owner=owner_of(scope))
    if spec is None:
        raise job_not_found(job_id)
    if spec.endpoint == CHUNK_ENDPOINT:
        batch = spec.metadata["batch"]
        message = f"{job_id} is a chunk of the batch {batch}, and no job of its own"
        raise invalid(f"{message}; retry the batch's failed rows: POST /v1/batches/{batch}/retry", "job_id")
    await check_lane(services, spec.tenant, spec.lane)
    await check_model(services, spec.tenant, spec.model, identity_of(scope).models)
    earlier = TraceContext.decode(spec.trace)
    spec = replace(
        spec,
        idempotency_key=key,
        idempotency_tenant=tenant_of(scope),
        trace=None,
        key=identity_of(scope).key,
    )
    try:
        accepted = await accept(services, spec, request_span(scope), [earlier], actor_of(scope))
    except LookupError:
        raise job_not_found(job_id) from None
    if not accepted.replayed:
        log.info("job_retried", job_id=job_id, retried_as=accepted.id, tenant=asked_by(scope))
    return accepted


async def _retried(services: Services, job_id: str, scope: Scope) -> dict[str, Any]:
    """Repeat one job of many; return its :class:`api.jobs.schema.Retried`."""
    new, error = None, None
    try:
        new = (await _repeat(services, job_id, scope)).id
    except _REFUSALS as refused:
        kind = next(kind for kind in type(refused).__mro__ if kind in _ANSWERS)
        answer = _ANSWERS[kind](refused)
        error = {"code": answer.code, "message": answer.message}
    return {"id": job_id, "retried_as": new, "error": error}


async def _pick(services: Services, request: DeadRetryRequest, owner: str | None) -> tuple[list[str], bool]:
    """Return the ids of the latest dead jobs that match, and whether there are more."""
    ids: list[str] = []
    cursor = None
    model = _real_name(services, request.model)
    while len(ids) < request.limit:
        page = await services.store.list_dead(
            code=request.code,
            model=model,
            limit=request.limit - len(ids),
            cursor=cursor,
            owner=owner,
        )
        ids += [job.id for job in page.jobs]
        cursor = page.cursor
        if cursor is None:
            break
    return ids, cursor is not None


def _real_name(services: Services, model: str | None) -> str | None:
    return None if model is None else services.catalogue.real_name(model)


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.post(
        "/v1/jobs/{job_id}/retry",
        operation_id="retryJob",
        summary="Repeat a finished job",
        status_code=202,
        responses=answers(JobObject, 400, 404, 409, 410, 429, 503, status=202),
        openapi_extra={"parameters": [key_parameter("job")]},
    )
    async def retry_job(job_id: str, asked: Request) -> Response:
        """Make a new job with the same request and limits. A second call gives the same new job."""
        accepted = await _repeat(services, job_id, asked.scope, idempotency_key(asked.scope))
        job = await found_job(services, accepted.id, owner_of(asked.scope))
        return json_response(
            job_view(job), 202, {"location": f"/v1/jobs/{accepted.id}", **rate_headers(accepted.rates)}
        )

    @router.get(
        "/v1/dead",
        operation_id="listDeadJobs",
        summary="List dead jobs",
        responses=answers(JobList, 400, 503),
    )
    async def list_dead(
        request: Request,
        code: Annotated[
            DeathCode | None, Query(description="Only jobs that failed with this code, or `expired`.")
        ] = None,
        model: Annotated[str | None, Query(description="Only jobs of this model.")] = None,
        limit: Limit = 20,
        after: After = None,
    ) -> Response:
        """Jobs that failed or expired and were not repeated, the latest end first."""
        page = await services.store.list_dead(
            code=code,
            model=_real_name(services, model),
            limit=limit,
            cursor=decode_cursor(after),
            owner=owner_of(request.scope),
        )
        return json_response(page_view(page))

    @router.get(
        "/v1/dead/groups",
        operation_id="listDeadGroups",
        summary="Count dead jobs by failure code and model",
        responses=answers(DeadGroupList, 503),
    )
    async def group_dead(request: Request) -> Response:
        """Of the latest 1,000 dead jobs, the largest group first."""
        found = await services.store.group_dead(owner=owner_of(request.scope))
        data = [
            {
                "code": group.code,
                "model": group.model,
                "jobs": group.jobs,
                "latest_at": group.latest_ms / 1000,
            }
            for group in found.groups
        ]
        return json_response({"object": "list", "data": data, "has_more": found.more})

    @router.post(
        "/v1/dead/retry",
        operation_id="retryDeadJobs",
        summary="Repeat dead jobs",
        responses=answers(RetriedList, 400, 413, 503),
        openapi_extra=body_docs(DeadRetryRequest, {"code": "worker_lost", "limit": 100}),
    )
    async def retry_dead(
        request: Annotated[DeadRetryRequest, control_body(DeadRetryRequest)], asked: Request
    ) -> Response:
        """Make a new job of each. A job is repeated once, however often this is called."""
        if request.ids is not None:
            ids, more = request.ids, False
        else:
            ids, more = await _pick(services, request, owner_of(asked.scope))
        data = [await _retried(services, job_id, asked.scope) for job_id in ids]
        return json_response({"object": "list", "data": data, "has_more": more})
