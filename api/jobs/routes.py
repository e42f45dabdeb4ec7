"""The jobs API: its routes, their documentation, and the calls that are made seldom."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import structlog
from fastapi import APIRouter, Query, Request, Response

from api.http.asgi import RawRoute
from api.http.errors import ApiError, job_not_found
from api.http.job_end import answer
from api.http.openapi import JOB_REQUEST, body_docs, error_docs
from api.jobs.events import JobEvents
from api.jobs.schema import JobList, JobObject, JobRequest, State
from api.jobs.submit import Jobs, checked_id
from api.jobs.view import decode_cursor, job_view, page_view
from api.middleware.trace import asked_by, note_cancel, request_span
from api.services import Services
from jobs.states import JobState

log = structlog.get_logger(__name__)

_PREFER_DOCS = {
    "name": "Prefer",
    "in": "header",
    "schema": {"type": "string"},
    "description": "`wait=N`: wait up to N seconds for the end.",
}
_WAIT_DOCS = {
    "name": "wait",
    "in": "query",
    "schema": {"type": "number", "minimum": 0, "maximum": 300},
    "description": "Wait up to this many seconds for the end.",
}
_KEY_DOCS = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "The same key gives the same job.",
}
_ID_DOCS = {"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}


def register(router: APIRouter, services: Services) -> None:
    """Add the job routes."""
    jobs = Jobs(services)
    store = services.store
    docs: dict[str, Any] = {"tags": ["jobs"], "response_class": Response}
    router.routes.append(
        RawRoute(
            "/v1/jobs",
            jobs.submit,
            methods=["POST"],
            name="submit_job",
            summary="Submit a job",
            description="Accepted means on disk: the job reaches an end whatever crashes.",
            status_code=202,
            responses={
                200: {"model": JobObject, "description": "It ended within the wait."},
                202: {"model": JobObject, "description": "Accepted; `Location` is its address."},
                **error_docs(400, 404, 409, 413, 429, 503),
            },
            openapi_extra={
                **body_docs(JobRequest, JOB_REQUEST),
                "parameters": [_KEY_DOCS, _PREFER_DOCS, _WAIT_DOCS],
            },
            **docs,
        )
    )
    router.routes.append(
        RawRoute(
            "/v1/jobs/{job_id}",
            jobs.get,
            methods=["GET"],
            name="get_job",
            summary="Get a job",
            description="With its result, once it succeeded.",
            responses={200: {"model": JobObject}, **error_docs(400, 404, 503)},
            openapi_extra={"parameters": [_ID_DOCS, _PREFER_DOCS, _WAIT_DOCS]},
            **docs,
        )
    )

    @router.get(
        "/v1/jobs", summary="List jobs", responses={200: {"model": JobList}, **error_docs(400, 503)}, **docs
    )
    async def list_jobs(
        state: Annotated[State | None, Query(description="Only jobs in this state.")] = None,
        model: Annotated[
            str | None, Query(description="Only jobs of this model, by its name or an alias.")
        ] = None,
        created_after: Annotated[
            float | None, Query(allow_inf_nan=False, description="Unix seconds.")
        ] = None,
        created_before: Annotated[
            float | None, Query(allow_inf_nan=False, description="Unix seconds.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="Jobs in a page.")] = 20,
        after: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
        order: Annotated[Literal["asc", "desc"], Query(description="By creation time.")] = "desc",
    ) -> Response:
        """Newest first, without results. A page may hold fewer than `limit`: go on while `has_more`."""
        page = await store.list_jobs(
            state=None if state is None else JobState(state),
            model=None if model is None else services.catalogue.real_name(model),
            created_after_ms=None if created_after is None else round(created_after * 1000),
            created_before_ms=None if created_before is None else round(created_before * 1000),
            limit=limit,
            cursor=None if after is None else decode_cursor(after),
            newest_first=order == "desc",
        )
        return Response(msgspec.json.encode(page_view(page)), media_type="application/json")

    @router.post(
        "/v1/jobs/{job_id}/cancel",
        summary="Cancel a job",
        responses={200: {"model": JobObject}, **error_docs(404, 503)},
        **docs,
    )
    async def cancel_job(job_id: str, request: Request) -> Response:
        """A queued job ends at once, a running one within a second; a finished one stays as it is."""
        state = await store.cancel(checked_id(job_id))
        if state is None:
            raise job_not_found(job_id)
        log.info("cancel_asked", job_id=job_id, state=state.value, tenant=asked_by(request.scope))
        job = await store.get(job_id)
        if job is None:
            raise job_not_found(job_id)
        note_cancel(services.tracer, request_span(request.scope), job)
        return Response(msgspec.json.encode(job_view(job)), media_type="application/json")

    @router.get(
        "/v1/jobs/{job_id}/result",
        summary="Get a job's result",
        responses={200: {"description": "The raw OpenAI response."}, **error_docs(404, 409, 503, 504)},
        **docs,
    )
    async def get_result(job_id: str) -> Response:
        """The raw OpenAI response; of a failed job, its OpenAI error with its status."""
        try:
            ending = await services.hub.ended(checked_id(job_id))
        except LookupError:
            raise job_not_found(job_id) from None
        if ending is None:
            raise ApiError(
                409, f"{job_id} is not finished; wait for it or follow its events", "job_not_finished"
            )
        status, result, headers = answer(job_id, ending)
        named = {name.decode(): value.decode() for name, value in headers}
        return Response(result, status, named, "application/json")

    router.routes.append(
        RawRoute(
            "/v1/jobs/{job_id}/events",
            JobEvents(services),
            methods=["GET"],
            name="job_events",
            summary="Follow a job",
            description="Server-Sent Events: `queued`, `running`, `restarted`, `chunk`, then how it ended.",
            responses={200: {"content": {"text/event-stream": {}}}, **error_docs(400, 404, 503)},
            openapi_extra={
                "parameters": [
                    _ID_DOCS,
                    {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}},
                    {"name": "after", "in": "query", "schema": {"type": "string"}},
                ]
            },
            **docs,
        )
    )
