"""Submitting a job and looking at one: the calls of the jobs API that are made often, as plain ASGI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from api.access.authenticate import tenant_of
from api.admission.fingerprints import affinity_of, coalescing_sum
from api.admission.models import named_model
from api.admission.routing import route
from api.admission.schema import check_body
from api.http.asgi import Header, header, reply
from api.http.body import parse_raw, parse_value, read_body
from api.http.errors import invalid, job_not_found, validation_error
from api.http.waiting import asked_wait, wait_for_end
from api.jobs.schema import JobRequest
from api.jobs.view import job_view
from api.middleware.trace import request_span
from api.services import Services
from broker.db.errors import StoreUnavailableError
from broker.jobs import Accepted
from jobs.ids import is_job_id
from jobs.lanes import Lane
from jobs.model import Job, JobSpec, Queued, Timings
from jobs.states import JobState
from monitoring import failpoints
from monitoring.trace_context import TraceContext

_validator = TypeAdapter(JobRequest).validator


class Jobs:
    """``POST /v1/jobs`` and ``GET /v1/jobs/{job_id}``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def submit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/jobs``."""
        services = self._services
        wait_s, applied = asked_wait(scope, services.settings.max_wait_s)
        key = _idempotency_key(scope)
        body = await read_body(scope, receive, services.settings.max_body_bytes)
        spec = await self._spec(body, key, services.process if wait_s else None, tenant_of(scope))
        warnings: list[dict[str, Any]] = []
        span = request_span(scope)
        with services.hub.inbox(spec.id) as inbox:
            failpoints.hit("api.before_accept")
            try:
                accepted = await services.accept(spec, span)
            except StoreUnavailableError:
                # It may have been accepted all the same. With a key the client finds it; else nobody does.
                if key is None:
                    services.abandon(spec.id)
                raise
            failpoints.hit("api.after_accept")
            job: Job | None
            if accepted.replayed:
                job = await self._look(accepted.id, wait_s, receive)
            else:
                services.metrics.count_accepted(spec.lane, spec.tenant)
                job = _fresh(spec, accepted, span.context)
                warnings = deadline_warnings(spec, accepted)
                if wait_s:
                    await wait_for_end(services, spec.id, inbox, wait_s, receive)
                    job = await services.store.get(spec.id)
        headers = [(b"location", f"/v1/jobs/{accepted.id}".encode())]
        if applied:
            headers.append((b"preference-applied", applied.encode()))
        await self._show(job, accepted.id, send, 202, headers, warnings)

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /v1/jobs/{job_id}``."""
        job_id = checked_id(scope["path_params"]["job_id"])
        wait_s, applied = asked_wait(scope, self._services.settings.max_wait_s)
        headers = [(b"preference-applied", applied.encode())] if applied else []
        if wait_s:
            await receive()  # the (empty) body, so that what comes next is the hang-up
        await self._show(await self._look(job_id, wait_s, receive), job_id, send, 200, headers)

    async def _spec(self, body: bytes, key: str | None, sink: str | None, tenant: str) -> JobSpec:
        raw = parse_raw(body)
        fields = {name: parse_value(value) for name, value in raw.items()}
        try:
            request: JobRequest = _validator.validate_python(fields)
        except ValidationError as error:
            raise validation_error(error.errors(include_url=False, include_input=False)) from None
        name = _model_name(request, self._services.settings.default_model)
        check_body(request.endpoint, request.input)
        placement = None if request.placement is None else request.placement.wish()
        model, payload = await route(
            self._services, name, request.endpoint, request.input, bytes(raw["input"]), placement=placement
        )
        stream = bool(request.input.get("stream") if request.stream is None else request.stream)
        coalesce = None
        if request.coalesce:
            coalesce = coalescing_sum(request.endpoint, request.input, stream=stream)
        return JobSpec(
            id=self._services.new_job_id(),
            endpoint=request.endpoint,
            model=model.name,
            body=payload,
            pool=model.pool,
            lane=Lane(request.priority),
            stream=stream,
            metadata=request.metadata or {},
            tenant=tenant,
            max_attempts=request.max_attempts,
            expires_in_ms=_ms(request.expires_in_s),
            queue_timeout_ms=_ms(request.queue_timeout_s),
            timeout_ms=_ms(request.timeout_s),
            idempotency_key=key,
            sink=sink,
            affinity=affinity_of(request.input, request.affinity_key),
            coalesce=coalesce,
            placement=placement,
        )

    async def _look(self, job_id: str, wait_s: float, receive: Receive) -> Job | None:
        """Read a job, after its end or after ``wait_s`` seconds."""
        services = self._services
        if wait_s:
            with services.hub.inbox(job_id) as inbox:
                state = await services.store.watch(job_id, services.process)
                if state is not None and not state.terminal:
                    await wait_for_end(services, job_id, inbox, wait_s, receive)
        return await services.store.get(job_id)

    async def _show(
        self,
        job: Job | None,
        job_id: str,
        send: Send,
        unfinished: int,
        headers: list[Header],
        warnings: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Answer with a job and, once it succeeded, its result."""
        if job is None:
            raise job_not_found(job_id)
        view = job_view(job, warnings=warnings)
        if job.state.terminal:
            stored = await self._services.store.result(job_id)
            result = stored.body if job.state is JobState.SUCCEEDED else None
            view = job_view(job, result, stored.partial, warnings)
        body = msgspec.json.encode(view)
        await reply(send, 200 if job.state.terminal else unfinished, body, headers)


def checked_id(job_id: str) -> str:
    """Return the id. Raises ApiError (404) where no job can have it."""
    if not is_job_id(job_id):
        raise job_not_found(job_id)
    return job_id


def _idempotency_key(scope: Scope) -> str | None:
    value = header(scope, b"idempotency-key")
    if value is None:
        return None
    if not 1 <= len(value) <= 255:
        raise invalid("Idempotency-Key must have 1 to 255 characters", "Idempotency-Key")
    return value.decode("latin-1")


def _model_name(request: JobRequest, default: str | None) -> str:
    """Return the model that both the job and its input can mean."""
    if request.model is None:
        return named_model(request.input, default)
    inner = request.input.get("model")
    if inner is not None and inner != request.model:
        raise invalid(f"model is {request.model!r}, but input.model is {inner!r}", "model")
    return named_model({"model": request.model})


def deadline_warnings(spec: JobSpec, accepted: Accepted) -> list[dict[str, Any]]:
    """Say so where a job will by estimate miss its deadline, or its time to start."""
    if accepted.eta_ms is None:
        return []
    done_ms = accepted.eta_ms + (accepted.run_ms or 0)
    found = []
    for field, estimate_ms, limit_ms in (
        ("expires_in_s", done_ms, spec.expires_in_ms),
        ("queue_timeout_s", accepted.eta_ms, spec.queue_timeout_ms),
    ):
        if limit_ms is not None and estimate_ms > limit_ms:
            seconds = estimate_ms / 1000
            message = f"{field} cannot be met as the queue stands: it would take about {seconds:.1f} s"
            warning = {
                "code": "infeasible_deadline",
                "message": message,
                "param": field,
                "estimate_s": seconds,
            }
            found.append(warning)
    return found


def _fresh(spec: JobSpec, accepted: Accepted, place: TraceContext | None) -> Job:
    """Return the job as it was accepted a moment ago: nothing needs to be read for that."""
    now_ms = accepted.created_ms
    return Job(
        id=spec.id,
        state=JobState.QUEUED,
        phase=Queued(accepted.position, accepted.eta_ms),
        endpoint=spec.endpoint,
        model=spec.model,
        pool=spec.pool,
        lane=spec.lane,
        stream=spec.stream,
        tenant=spec.tenant,
        metadata=spec.metadata,
        timings=Timings(now_ms),
        attempt=0,
        max_attempts=spec.max_attempts,
        expires_at_ms=None if spec.expires_in_ms is None else now_ms + spec.expires_in_ms,
        queue_timeout_ms=spec.queue_timeout_ms,
        timeout_ms=spec.timeout_ms,
        trace=None if place is None else place.encode(),
    )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))
