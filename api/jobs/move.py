"""``PATCH /v1/jobs/{id}``: moving a queued job to another lane, or to the top of its lane."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Request, Response

from api.http.asgi import json_response
from api.http.errors import ApiError, invalid
from api.http.openapi import answers
from api.jobs.lookup import checked_id, found_job, job_not_found
from api.jobs.schema import JobChange, JobObject
from api.jobs.view import job_view
from api.middleware.trace import asked_by
from api.services import Services
from jobs.lanes import Lane
from jobs.states import JobState

log = structlog.get_logger(__name__)


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""
    store = services.store

    @router.patch(
        "/v1/jobs/{job_id}",
        summary="Change a queued job's priority",
        responses=answers(JobObject, 400, 404, 409, 503),
    )
    async def change_job(job_id: str, change: JobChange, request: Request) -> Response:
        """Only a queued job can be moved."""
        lane = None if change.priority is None else Lane(change.priority)
        current = await store.get(checked_id(job_id))
        if current is not None and current.lane is Lane.REALTIME:
            raise invalid(f"{job_id} belongs to a synchronous call, which cannot be moved", "job_id")
        state = await store.move(job_id, lane, top=change.top)
        if state is None:
            raise job_not_found(job_id)
        if state is not JobState.QUEUED:
            raise ApiError(409, f"{job_id} is {state}; only a queued job can be moved", "job_not_queued")
        log.info(
            "job_moved", job_id=job_id, lane=change.priority, top=change.top, tenant=asked_by(request.scope)
        )
        return json_response(job_view(await found_job(services, job_id)))
