"""Traces at the edge: one server span per request of the API, and the place in a trace that its job belongs to."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access.authenticate import tenant_of
from api.http.asgi import header
from api.middleware.metrics import CLIENT_GONE, UNMATCHED
from broker.records import Ending
from jobs.model import Job, JobSpec
from jobs.states import JobState
from monitoring.trace_context import TraceContext
from monitoring.tracing import NO_SPAN, Kind, Span, Tracer

log = structlog.get_logger(__name__)

_KEY = "penstock.span"

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
"""OpenAI's endpoints by ``gen_ai.operation.name``."""


class Trace:
    """Begins a span for every request under ``/v1/``, and tells its trace in the response header ``traceresponse``.

    Installed only where traces are on. The caller's ``traceparent`` is continued.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        span = self._tracer.begin(method, Kind.SERVER, caller(scope))
        scope[_KEY] = span
        context = span.context
        told = [] if context is None else [(b"traceresponse", context.parent.encode())]
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *told]
            await send(message)

        if context is not None:  # a request is a task of its own: nothing to take back
            structlog.contextvars.bind_contextvars(trace_id=context.trace_id)
        try:
            await self._app(scope, receive, watch)
        finally:
            if span.recording:
                _describe(span, scope, status)
            span.end()


def _describe(span: Span, scope: Scope, status: int) -> None:
    method, route = scope["method"], getattr(scope.get("route"), "path", UNMATCHED)
    span.rename(f"{method} {route}")
    span.set(
        {
            "http.request.method": method,
            "http.route": route,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"),
            "http.response.status_code": status or int(CLIENT_GONE),
        }
    )
    if client := scope.get("client"):
        span.set({"client.address": client[0]})
    if agent := header(scope, b"user-agent"):
        span.set({"user_agent.original": agent.decode("latin-1")[:200]})
    if status >= 500:
        span.error(str(status))
    elif not status:
        span.event("client_gone")


def caller(scope: Scope) -> TraceContext | None:
    """Read the trace that the caller's request belongs to; None where it names none, or wrongly."""
    parent = header(scope, b"traceparent")
    if parent is None:
        return None
    states = [value.decode("latin-1") for name, value in scope["headers"] if name == b"tracestate"]
    return TraceContext.read(parent.decode("latin-1"), ",".join(states))


def request_span(scope: Scope) -> Span:
    """Return the request's span. Where traces are off it records nothing, and passes the caller's trace on."""
    span: Span | None = scope.get(_KEY)
    if span is None:
        context = caller(scope)
        span = scope[_KEY] = NO_SPAN if context is None else Span(context)
    return span


def place_of(scope: Scope) -> str | None:
    """Return the request's place in a trace, as a record keeps it; None where it has none."""
    context = request_span(scope).context
    return None if context is None else context.encode()


def asked_by(scope: Scope) -> str:
    """Return the tenant whose request it is, for a line on what it asks for; from here on its lines have its trace."""
    context = request_span(scope).context
    if context is not None:  # a request is a task of its own: nothing to take back
        structlog.contextvars.bind_contextvars(trace_id=context.trace_id)
    return tenant_of(scope)


def begin_accept(
    tracer: Tracer, span: Span, spec: JobSpec, queue: str, links: Iterable[TraceContext | None]
) -> Span:
    """Begin the span of a job's way into its queue, below the request's; the job's attempts belong to it.

    Args:
        tracer: the process's tracer.
        span: the request's span.
        spec: the job, whose ``trace`` is not set yet.
        queue: the name of its queue.
        links: traces that have to do with it.
    """
    if not span.recording:
        return Span(span.context) if span.context is not None else NO_SPAN
    span.set(
        {
            "gen_ai.operation.name": _OPERATIONS.get(spec.endpoint, spec.endpoint),
            "gen_ai.request.model": spec.model,
            "penstock.job.id": spec.id,
        }
    )
    return tracer.begin(
        f"send {queue}",
        Kind.PRODUCER,
        span.context,
        {
            "messaging.system": "celery",
            "messaging.operation.type": "send",
            "messaging.operation.name": "accept",
            "messaging.destination.name": queue,
            "messaging.message.id": spec.id,
            "messaging.message.body.size": len(spec.body),
            "penstock.lane": spec.lane.value,
            "penstock.tenant": spec.tenant,
        },
        links=links,
    )


def begin_stream(tracer: Tracer, span: Span) -> Span:
    """Begin the span of a response's stream, from its first byte on."""
    return tracer.begin("stream", Kind.INTERNAL, span.context) if span.recording else NO_SPAN


def note_end(span: Span, job_id: str, ending: Ending) -> None:
    """Write onto a request's span how the job ended that it waited for."""
    state = ending.state.value
    log.debug(
        "job_ended", job_id=job_id, state=state, attempt=ending.attempt, total_ms=ending.timings.total_ms
    )
    if not span.recording:
        return
    span.set({"penstock.job.state": state, "penstock.job.attempt": ending.attempt})
    if ending.timings.queue_ms is not None:
        span.set({"penstock.job.queue_ms": ending.timings.queue_ms})
    if ending.usage is not None:
        span.set(
            {
                "gen_ai.usage.input_tokens": ending.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": ending.usage.completion_tokens,
            }
        )
    if ending.attempt > 1:
        span.event("restarted", {"penstock.job.attempt": ending.attempt})
    if ending.state is not JobState.SUCCEEDED:
        span.event(state, {"error.type": ending.error.code.value} if ending.error else None)


def note_cancel(tracer: Tracer, span: Span, job: Job) -> None:
    """Note in a job's own trace that somebody asked for its end, with a link to the request by which they did."""
    place = TraceContext.decode(job.trace)
    if tracer.enabled and place is not None:
        facts = {"penstock.job.id": job.id, "penstock.job.state": job.state.value}
        step = tracer.begin("cancel", Kind.INTERNAL, place, facts, links=[span.context])
        step.event("cancelled")
        step.end()
