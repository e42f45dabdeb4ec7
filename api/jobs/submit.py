"""Submitting a job and getting one: the frequent calls of the jobs API, as plain ASGI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from api.access.identity import identity_of, owner_of, tenant_of
from api.admission.accept import accept
from api.admission.admit import admit
from api.admission.unknown_fields import note_unknown, unknown_warnings
from api.admission.webhook_url import check_webhook_url
from api.fetched import drop_fetched
from api.http.asgi import Header, reply
from api.http.bodies import Body
from api.http.body import parse_raw, parse_value, validate
from api.http.errors import infeasible_message, invalid
from api.http.idempotency import idempotency_key
from api.http.rates import raw_rate_headers
from api.http.waiting import asked_wait, wait_for_end
from api.jobs.schema import JobRequest
from api.jobs.view import checked_id, job_not_found, job_view
from api.middleware.trace import request_span
from api.responses.prepare import Prepared, prepare
from api.services import Services
from broker.acceptance import Accepted
from broker.db.errors import StoreError
from broker.lookups import StoredResult
from jobs.access import Identity
from jobs.endpoints import RESPONSES
from jobs.lanes import Lane
from jobs.model import Job, JobSpec, Queued, Timings
from jobs.outlook import Snapshot, start_ms
from jobs.states import JobState
from monitoring import failpoints
from monitoring.trace_context import TraceContext
from monitoring.tracing import Span

log = structlog.get_logger(__name__)


_PROMPTS = frozenset({"messages", "prompt"})


class Jobs:
    """``POST /v1/jobs`` and ``GET /v1/jobs/{job_id}``."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def submit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/jobs``."""
        services = self._services
        wait_s, applied = asked_wait(scope, services.settings.max_wait_s)
        key = idempotency_key(scope)
        warnings: list[dict[str, Any]] = []
        span = request_span(scope)
        sink = services.process if wait_s else None
        with await services.bodies.read(scope, receive) as body:
            identity = identity_of(scope)
            spec = await self._spec(body, key, sink, identity, scope)
            with services.hub.inbox(spec.id) as inbox:
                accepted = await self._accept(spec, span)
                body.release()  # the wait may be long
                spec = replace(spec, body=b"")
                job: Job | None
                stored: StoredResult | None = None
                if accepted.replayed:
                    job, stored = await self._look(accepted.id, identity.owner, wait_s, scope)
                else:
                    limited = spec.expires_in_ms is not None or spec.queue_timeout_ms is not None
                    place = await self._place(spec.id) if limited or not wait_s else Snapshot()
                    warnings = deadline_warnings(spec, place)
                    if wait_s:
                        await wait_for_end(services.hub, spec.id, inbox, wait_s, scope)
                        job, stored = await services.store.get_with_result(spec.id, owner=identity.owner)
                    else:
                        job = _fresh(spec, accepted, place, span.context)
        headers = [(b"location", f"/v1/jobs/{accepted.id}".encode())]
        if applied:
            headers.append((b"preference-applied", applied.encode()))
        headers += raw_rate_headers(accepted.rates)
        await _show(job, stored, accepted.id, send, 202, headers, warnings + unknown_warnings(scope))
        await self._forget(job, stored, scope)

    async def get(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /v1/jobs/{job_id}``."""
        job_id = checked_id(scope["path_params"]["job_id"])
        wait_s, applied = asked_wait(scope, self._services.settings.max_wait_s)
        headers = [(b"preference-applied", applied.encode())] if applied else []
        job, stored = await self._look(job_id, owner_of(scope), wait_s, scope)
        await _show(job, stored, job_id, send, 200, headers)
        await self._forget(job, stored, scope)

    async def _forget(self, job: Job | None, stored: StoredResult | None, scope: Scope) -> None:
        """After the answer: drop the bodies of a job that is kept for one fetch, if its result was in the answer."""
        if job is not None and job.once and job.state.terminal and stored is not None:
            await drop_fetched(self._services, job.id, tenant_of(scope))

    async def _spec(
        self, body: Body, key: str | None, sink: str | None, identity: Identity, scope: Scope
    ) -> JobSpec:
        request, body.data = await body.run(_read_request, body.data)
        note_unknown(scope, request.endpoint, request.input, "input.")
        if request.webhook_url is not None:
            await check_webhook_url(self._services, request.webhook_url, "webhook_url", identity.tenant)
        asked = await self._prepared(request, body.data, identity.tenant)
        given = request.input
        if asked is not None:
            given = asked.request
            body.put(asked.body)
        spec = await admit(
            self._services,
            request.endpoint,
            given,
            body,
            lane=Lane(request.priority),
            model=request.model,
            stream=request.stream,
            placement=None if request.placement is None else request.placement.placement(),
            affinity_key=request.affinity_key,
            coalesce=request.coalesce,
            store=request.store,
            tenant=identity.tenant,
            owner=identity.owner,
            key=identity.key,
            models=identity.models,
            metadata=request.metadata or {},
            max_attempts=request.max_attempts,
            expires_in_ms=_ms(request.expires_in_s),
            queue_timeout_ms=_ms(request.queue_timeout_s),
            timeout_ms=_ms(request.timeout_s),
            idempotency_key=key,
            sink=sink,
            webhook=request.webhook_url,
        )
        return spec if asked is None else asked.named(spec)

    async def _prepared(self, request: JobRequest, body: bytes, tenant: str) -> Prepared | None:
        """Read what is ours in the request of a response; None: it asks for something else."""
        if request.endpoint != RESPONSES:
            return None
        return await prepare(
            self._services, request.input, body, tenant, background=True, store=request.store
        )

    async def _accept(self, spec: JobSpec, span: Span) -> Accepted:
        failpoints.hit("api.before_accept")
        try:
            accepted = await accept(self._services, spec, span)
        except StoreError:
            # The job may have been accepted all the same. With a key the client can find it again; otherwise nobody can.
            if spec.idempotency_key is None:
                self._services.abandoned.add(spec.id)
            raise
        failpoints.hit("api.after_accept")
        return accepted

    async def _place(self, job_id: str) -> Snapshot:
        """Look where a job stands that was just accepted. It is accepted also if Redis cannot say that any more."""
        try:
            return await self._services.store.look(job_id)
        except StoreError as error:
            log.debug("look_failed", job_id=job_id, error=str(error))
            return Snapshot()

    async def _look(
        self, job_id: str, owner: str | None, wait_s: float, scope: Scope
    ) -> tuple[Job, StoredResult] | tuple[None, None]:
        """Read a job and its result, at its end or after ``wait_s`` seconds."""
        services = self._services
        if wait_s:
            with services.hub.inbox(job_id) as inbox:
                state = await services.store.watch(job_id, services.process, owner=owner)
                if state is not None and not state.terminal:
                    await wait_for_end(services.hub, job_id, inbox, wait_s, scope)
        return await services.store.get_with_result(job_id, owner=owner)


async def _show(
    job: Job | None,
    stored: StoredResult | None,
    job_id: str,
    send: Send,
    unfinished: int,
    headers: list[Header],
    warnings: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Answer with a job and, once it succeeded, its result."""
    if job is None:
        raise job_not_found(job_id)
    result = partial = None
    if stored is not None and job.state.terminal:
        result, partial = stored.body if job.state is JobState.SUCCEEDED else None, stored.partial
    body = msgspec.json.encode(job_view(job, result, partial, warnings))
    await reply(send, 200 if job.state.terminal else unfinished, body, headers)


def _read_request(body: bytes) -> tuple[JobRequest, bytes]:
    """Read a body; return the request, and the bytes of its input.

    Raises:
        ApiError: 400, naming the field.
    """
    raw = parse_raw(body)
    if "input" not in raw and not _PROMPTS.isdisjoint(raw):
        message = (
            'input: Field required: it is the OpenAI request itself, {"input": {"model": …, "messages": […]}}'
        )
        raise invalid(message, "input")
    request = validate(JobRequest, {name: parse_value(value) for name, value in raw.items()})
    inner = request.input.get("model")
    if request.model is not None and isinstance(inner, str) and inner != request.model:
        given = f"model is {request.model[:100]!r}, but input.model is {inner[:100]!r}"
        raise invalid(f"{given}; give one of them, or the same twice", "model")
    return request, bytes(raw["input"])


def deadline_warnings(spec: JobSpec, place: Snapshot) -> list[dict[str, Any]]:
    """Return a warning for each time limit of a job that its estimate exceeds."""
    starts_ms = start_ms(place)
    if starts_ms is None:
        return []
    done_ms = starts_ms + int(place.mean_run_ms or 0)
    return [
        {
            "code": "infeasible_deadline",
            "message": infeasible_message(field, estimate_ms),
            "param": field,
            "estimate_s": estimate_ms / 1000,
        }
        for field, estimate_ms, limit_ms in (
            ("expires_in_s", done_ms, spec.expires_in_ms),
            ("queue_timeout_s", starts_ms, spec.queue_timeout_ms),
        )
        if limit_ms is not None and estimate_ms > limit_ms
    ]


def _fresh(spec: JobSpec, accepted: Accepted, place: Snapshot, trace: TraceContext | None) -> Job:
    """Return the job as it was just accepted, without reading its record."""
    now_ms = accepted.created_ms
    return Job(
        id=spec.id,
        state=JobState.QUEUED,
        phase=Queued(place.position, start_ms(place)),
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
        trace=None if trace is None else trace.encode(),
        keep_ms=spec.keep_ms,
        once=spec.once,
        webhook=spec.webhook,
    )


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))
