"""Counts, times and names requests. Plain ASGI, a few microseconds each."""

from __future__ import annotations

import time

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.asgi import template_of
from api.http.request_ids import id_header, request_id_of
from monitoring.metrics import ApiMetrics

CLIENT_GONE = "499"
"""The label of requests whose client hung up before its answer (nginx's number)."""


class RequestMetrics:
    """Counts and times every HTTP request by its route's template.

    Every answer, a refusal too, names the request's id (``x-request-id``); one of ``/v1`` also says how long it took until
    its first byte (``openai-processing-ms``).
    """

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics
        self._counters: dict[tuple[str, str], Counter] = {}
        self._timers: dict[str, Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = CLIENT_GONE
        began = time.perf_counter()
        request_id = request_id_of(scope)
        structlog.contextvars.bind_contextvars(request_id=request_id)  # a request is a task of its own
        timed = scope["path"].startswith("/v1/")

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                headers = [*message.get("headers", ()), id_header(request_id)]
                if timed:
                    headers.append((b"openai-processing-ms", b"%d" % ((time.perf_counter() - began) * 1000)))
                message["headers"] = headers
            await send(message)

        active = self._metrics.active
        active.inc()
        try:
            await self._app(scope, receive, watch)
        finally:
            active.dec()
            self._note(template_of(scope), status, time.perf_counter() - began)

    def _note(self, endpoint: str, status: str, seconds: float) -> None:
        counter = self._counters.get((endpoint, status))
        if counter is None:
            counter = self._counters[endpoint, status] = self._metrics.requests.labels(endpoint, status)
            self._timers[endpoint] = self._metrics.latency.labels(endpoint)
        counter.inc()
        self._timers[endpoint].observe(seconds)
