"""The jobs API's routes: submitting, getting, listing, cancelling and following jobs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response
from starlette.background import BackgroundTask

from api.access.identity import actor_of, identity_of, owner_of, tenant_of
from api.admission.rights import check_lane
from api.fetched import drop_fetched
from api.http.asgi import add_raw_route, json_response
from api.http.bodies import SMALL_BYTES
from api.http.body import control_body
from api.http.errors import ApiError, invalid
from api.http.idempotency import key_parameter
from api.http.job_end import answer
from api.http.openapi import answers, body_docs, error_docs, parameter, streamed
from api.http.pages import After, Limit, Order, decode_cursor
from api.http.texts import shown_body
from api.http.waiting import wait_parameters
from api.jobs.event_schema import JobEvent
from api.jobs.events import JobEvents
from api.jobs.schema import JOB_REQUEST, JobChange, JobList, JobObject, JobRequest, LaneName, State
from api.jobs.stream import JobStream
from api.jobs.submit import Jobs
from api.jobs.view import checked_id, found_job, job_not_found, job_view, page_view
from api.middleware.trace import asked_by, request_span
from api.openai.answer_schema import OutputEvent
from api.openai.resume import PLACE
from api.services import Services
from broker.db.errors import BodyGoneError
from broker.sealing import REQUEST
from jobs.lanes import Lane
from jobs.model import Job
from jobs.states import JobState
from monitoring.trace_context import TraceContext
from monitoring.tracing import Kind, Span, Tracer

log = structlog.get_logger(__name__)

_Time = Annotated[
    float | None, Query(ge=0, le=253_402_300_799, description="Unix seconds, up to the year 9999.")
]


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    _register_raw(router, services)
    _register_change(router, services)

    @router.get(
        "/v1/jobs", operation_id="listJobs", summary="List jobs", responses=answers(JobList, 400, 503)
    )
    async def list_jobs(
        request: Request,
        state: Annotated[State | None, Query(description="Only jobs in this state.")] = None,
        model: Annotated[
            str | None, Query(description="Only jobs of this model, by its name or an alias.")
        ] = None,
        priority: Annotated[LaneName | None, Query(description="Only jobs of this lane.")] = None,
        pool: Annotated[str | None, Query(description="Only jobs of this pool.")] = None,
        tenant: Annotated[
            str | None, Query(description="Only jobs of this tenant; without the scope `admin`, your own.")
        ] = None,
        created_after: _Time = None,
        created_before: _Time = None,
        limit: Limit = 20,
        after: After = None,
        order: Order = "desc",
    ) -> Response:
        """Newest first, without results. A page may hold fewer than `limit`: continue while `has_more` is true."""
        page = await services.store.list_jobs(
            state=None if state is None else JobState(state),
            model=None if model is None else services.catalogue.real_name(model),
            lane=None if priority is None else Lane(priority),
            pool=pool,
            created_after_ms=None if created_after is None else round(created_after * 1000),
            created_before_ms=None if created_before is None else round(created_before * 1000),
            limit=limit,
            cursor=decode_cursor(after),
            newest_first=order == "desc",
            owner=owner_of(request.scope) or tenant,
        )
        return json_response(page_view(page))

    @router.post(
        "/v1/jobs/{job_id}/cancel",
        operation_id="cancelJob",
        summary="Cancel a job",
        responses=answers(JobObject, 404, 503),
    )
    async def cancel_job(job_id: str, request: Request) -> Response:
        """A queued job ends at once, a running one within a second. A finished one does not change."""
        owner = owner_of(request.scope)
        by = actor_of(request.scope)
        state = await services.store.cancel(checked_id(job_id), owner=owner, by=by)
        if state is None:
            raise job_not_found(job_id)
        log.info("cancel_asked", job_id=job_id, state=state.value, tenant=asked_by(request.scope))
        job = await found_job(services, job_id, owner)
        _note_cancel(services.tracer, request_span(request.scope), job)
        return json_response(job_view(job))

    @router.get(
        "/v1/jobs/{job_id}/input",
        operation_id="getJobInput",
        summary="Get a job's request",
        responses={
            200: {
                "description": "The raw OpenAI request body.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **error_docs(404, 410, 503),
        },
    )
    async def get_input(job_id: str, request: Request) -> Response:
        """The raw OpenAI request body, as the engine gets it."""
        owner = owner_of(request.scope)
        await found_job(services, job_id, owner)
        size = await services.store.body_bytes(job_id, REQUEST, owner=owner)
        async with services.large_bodies if size > SMALL_BYTES else nullcontext():
            body = await services.store.request(job_id, owner=owner)
        if body is None:
            raise BodyGoneError(job_id)
        return Response(body, 200, {"cache-control": "no-store"}, "application/json")

    @router.get(
        "/v1/jobs/{job_id}/result",
        operation_id="getJobResult",
        summary="Get a job's result",
        responses={
            200: {"model": dict[str, Any], "description": "The raw OpenAI response."},
            **error_docs(404, 409, 410, 503, 504),
        },
    )
    async def get_result(job_id: str, request: Request) -> Response:
        """The raw OpenAI response; of a failed job, its OpenAI error with its status.

        With `store: false`, this fetch is the last one.
        """
        try:
            ending = await services.hub.ended(checked_id(job_id), owner=owner_of(request.scope))
        except LookupError:
            raise job_not_found(job_id) from None
        if ending is None:
            message = f"{job_id} has not ended; wait for it or follow its events"
            raise ApiError(409, message, "job_not_finished")
        status, result, headers = answer(job_id, ending, ending.shown)
        named = {name.decode(): value.decode() for name, value in headers}
        sent = BackgroundTask(drop_fetched, services, job_id, tenant_of(request.scope))
        result, (_, kind) = shown_body(status, result)
        return Response(result, status, named, kind.decode(), sent if ending.once else None)


def _register_raw(router: APIRouter, services: Services) -> None:
    jobs = Jobs(services)
    job_id = parameter("path", "job_id")
    waits = wait_parameters(services.settings.max_wait_s)
    add_raw_route(
        router,
        "POST",
        "/v1/jobs",
        jobs.submit,
        name="submit_job",
        operation_id="createJob",
        summary="Submit a job",
        description="Accepted means on disk: the job reaches an end even if any process crashes.",
        status_code=202,
        responses={
            200: {"model": JobObject, "description": "It ended within the wait."},
            202: {"model": JobObject, "description": "Accepted; `Location` is its address."},
            **error_docs(400, 404, 409, 413, 429, 503),
        },
        openapi_extra={
            **body_docs(JobRequest, JOB_REQUEST),
            "parameters": [key_parameter("job"), *waits],
        },
    )
    add_raw_route(
        router,
        "GET",
        "/v1/jobs/{job_id}",
        jobs.get,
        name="get_job",
        operation_id="getJob",
        summary="Get a job",
        description="With its result, once it succeeded.",
        responses=answers(JobObject, 400, 404, 503),
        openapi_extra={"parameters": [job_id, *waits]},
    )
    add_raw_route(
        router,
        "GET",
        "/v1/jobs/{job_id}/events",
        JobEvents(services),
        name="job_events",
        operation_id="streamJobEvents",
        summary="Follow a job",
        description="Server-Sent Events: `queued`, `running`, `restarted` and `chunk`; the last one is the job's end.",
        responses={
            200: {"content": streamed(JobEvent)},
            204: {"description": "The reader has the last event."},
            **error_docs(400, 404, 503),
        },
        openapi_extra={
            "parameters": [job_id, parameter("header", "Last-Event-ID"), parameter("query", "after")]
        },
    )
    add_raw_route(
        router,
        "GET",
        "/v1/jobs/{job_id}/stream",
        JobStream(services),
        name="job_stream",
        operation_id="streamJobOutput",
        summary="Follow a job's stream, in its endpoint's own form",
        description="As the endpoint itself streams, from the start or after an event that you have. Each has an `id`.",
        responses={200: {"content": streamed(OutputEvent)}, **error_docs(400, 404, 503)},
        openapi_extra={"parameters": [job_id, *PLACE]},
    )


def _register_change(router: APIRouter, services: Services) -> None:
    @router.patch(
        "/v1/jobs/{job_id}",
        operation_id="updateJob",
        summary="Change a queued job's priority",
        responses=answers(JobObject, 400, 404, 409, 413, 503),
        openapi_extra=body_docs(JobChange, {"priority": "high"}),
    )
    async def change_job(
        job_id: str, change: Annotated[JobChange, control_body(JobChange)], request: Request
    ) -> Response:
        """Only a queued job can be moved."""
        lane, owner = None if change.priority is None else Lane(change.priority), owner_of(request.scope)
        current = await services.store.get(checked_id(job_id), owner=owner)
        if current is not None and current.lane is Lane.REALTIME:
            raise invalid(f"{job_id} belongs to a synchronous call, which cannot be moved", "job_id")
        if current is not None and lane is not None and not identity_of(request.scope).admin:
            await check_lane(services, current.tenant, lane)
        by = actor_of(request.scope)
        state = await services.store.move(job_id, lane, top=change.top, owner=owner, by=by)
        if state is None:
            raise job_not_found(job_id)
        if state is not JobState.QUEUED:
            raise ApiError(409, f"{job_id} is {state}; only a queued job can be moved", "job_not_queued")
        log.info(
            "job_moved", job_id=job_id, lane=change.priority, top=change.top, tenant=asked_by(request.scope)
        )
        return json_response(job_view(await found_job(services, job_id, owner)))


def _note_cancel(tracer: Tracer, span: Span, job: Job) -> None:
    """Write the cancellation into the job's own trace, with a link to the request."""
    place = TraceContext.decode(job.trace)
    if tracer.enabled and place is not None:
        facts = {"penstock.job.id": job.id, "penstock.job.state": job.state.value}
        step = tracer.begin("cancel", Kind.INTERNAL, place, facts, links=[span.context])
        step.event("cancelled")
        step.end()
