"""One server span for every request, and the request's place in a trace, which its job inherits."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access.identity import tenant_of
from api.access.scopes import needs_key
from api.http.asgi import header, shown_path, template_of
from api.middleware.metrics import CLIENT_GONE
from monitoring.trace_context import TraceContext
from monitoring.tracing import NO_SPAN, Kind, Span, Tracer

_KEY = "penstock.span"


class Trace:
    """Begins a span for every request of the api proper and names its trace in the response header ``traceresponse``.

    Installed only if traces are on. It continues the caller's ``traceparent``.
    """

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http" or not _traced(scope["path"]):
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        span = self._tracer.begin(method, Kind.SERVER, caller(scope))
        scope[_KEY] = span
        context = span.context
        extra = [] if context is None else [(b"traceresponse", context.parent.encode())]
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        if context is not None:  # a request is a task of its own: no need to unbind
            structlog.contextvars.bind_contextvars(trace_id=context.trace_id)
        try:
            await self._app(scope, receive, watch)
        finally:
            if span.recording:
                _describe(span, scope, status)
            span.end()


def _traced(path: str) -> bool:
    return path.startswith("/v1/") or needs_key(path)


def _describe(span: Span, scope: Scope, status: int) -> None:
    method, route = scope["method"], template_of(scope)
    span.rename(f"{method} {route}")
    span.set(
        {
            "http.request.method": method,
            "http.route": route,
            "url.path": shown_path(scope),
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
    """Read the trace that the caller's request belongs to; None: it names none, or an invalid one."""
    parent = header(scope, b"traceparent")
    if parent is None:
        return None
    states = [value.decode("latin-1") for name, value in scope["headers"] if name == b"tracestate"]
    return TraceContext.read(parent.decode("latin-1"), ",".join(states))


def request_span(scope: Scope) -> Span:
    """Return the request's span. If traces are off, the span records nothing and passes the caller's trace on."""
    span: Span | None = scope.get(_KEY)
    if span is None:
        context = caller(scope)
        span = scope[_KEY] = NO_SPAN if context is None else Span(context)
    return span


def place_of(scope: Scope) -> str | None:
    """Return the request's place in a trace, as a record keeps it; None: it has none."""
    context = request_span(scope).context
    return None if context is None else context.encode()


def asked_by(scope: Scope) -> str:
    """Return the request's tenant for a log line, and bind its trace to this and later lines."""
    context = request_span(scope).context
    if context is not None:  # a request is a task of its own: no need to unbind
        structlog.contextvars.bind_contextvars(trace_id=context.trace_id)
    return tenant_of(scope)
