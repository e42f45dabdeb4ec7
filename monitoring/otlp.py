"""Records spans with OpenTelemetry's SDK and sends them as OTLP over HTTP. The SDK is imported only if traces are on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any

import structlog

from monitoring.sampling import Gate
from monitoring.trace_context import TraceContext
from monitoring.tracing import Attributes, Kind, Span, Tracer

log = structlog.get_logger(__name__)

_CLOSE_S = 3.0
"""How long the last spans may take at the end of a process; an unreachable collector must not delay that end."""
_GIVE_UP_S = 0.5
"""How long the exporter may take to drop them after that. A request under way cannot be interrupted."""


def make_tracer(
    service: str,
    endpoint: str | None,
    *,
    ratio: float = 1.0,
    max_per_s: float = 0.0,
    resource: Attributes | None = None,
) -> Tracer:
    """Make a process's tracer: off, unless ``endpoint`` or OpenTelemetry's own environment variables name a collector.

    Those variables also set exporter, headers, resource, limits and sampler. ``OTEL_TRACES_SAMPLER`` replaces ``ratio`` and
    ``max_per_s``; ``OTEL_SDK_DISABLED=true`` and ``OTEL_TRACES_EXPORTER=none`` turn traces off.

    Args:
        service: the service's name, unless the environment gives another.
        endpoint: the collector's address, with or without ``/v1/traces``.
        ratio: share of new traces that is recorded, 0.0 to 1.0.
        max_per_s: most new traces recorded per second; 0.0: no limit. The caller decides about traces that it began.
        resource: further attributes of the process.
    """
    url = traces_url(endpoint)
    if url is None:
        return Tracer()
    gate = None if os.environ.get("OTEL_TRACES_SAMPLER") else Gate(ratio, max_per_s)
    return _OtlpTracer(service, url, gate, resource or {})


def traces_url(endpoint: str | None) -> str | None:
    """Return the address for spans, with its path; None: traces are off. ``endpoint``: as for :func:`make_tracer`."""
    env = os.environ
    if (
        env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or env.get("OTEL_TRACES_EXPORTER") == "none"
    ):
        return None
    url = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") if endpoint is None else None
    if url:  # a whole address, by OpenTelemetry's rule
        return url if _speaks_http() else None
    base = endpoint or env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not base or (endpoint is None and not _speaks_http()):
        return None
    base = base.rstrip("/")
    return base if base.endswith("/v1/traces") else f"{base}/v1/traces"


def _speaks_http() -> bool:
    """Whether the environment asks for OTLP over HTTP."""
    env = os.environ
    protocol = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol in {None, "", "http/protobuf"}:
        return True
    log.warning(
        "traces_off", reason=f"OTLP over {protocol} is not supported; set the protocol to http/protobuf"
    )
    return False


class _Recorded(Span):
    """A span of OpenTelemetry."""

    __slots__ = ("_span",)
    recording = True

    def __init__(self, span: Any, context: TraceContext) -> None:
        super().__init__(context)
        self._span = span

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        self._span.add_event(name, attributes)

    def error(self, kind: str, message: str = "") -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, message[:200] or None))

    def end(self, at_ns: int | None = None) -> None:
        self._span.end(at_ns)


class _OtlpTracer(Tracer):
    """Records spans and sends them in batches, from a thread of its own."""

    enabled = True

    def __init__(self, service: str, url: str, gate: Gate | None, resource: Attributes) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._gate = gate
        self._trace = trace
        self._nowhere = Context()
        self._kinds = {kind: trace.SpanKind[kind.name] for kind in Kind}
        ours = Resource({"service.name": service, **resource})
        # Resource.create would let ours override the environment's, whose service name also has a default.
        resources = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
        # With a gate, every span that reaches the SDK is recorded; otherwise the environment's sampler decides.
        self._provider = TracerProvider(
            resource=resources, sampler=ALWAYS_ON if gate else None, shutdown_on_exit=False
        )
        self._exporter: Any = OTLPSpanExporter(endpoint=url)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("penstock")
        log.info(
            "traces_on",
            endpoint=url.rsplit("@", maxsplit=1)[-1],
            service_name=resources.attributes["service.name"],
        )

    def begin(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        parent: TraceContext | None = None,
        attributes: Attributes | None = None,
        *,
        links: Iterable[TraceContext | None] = (),
        start_ns: int | None = None,
    ) -> Span:
        if self._gate is not None:
            if parent is not None and not parent.sampled:
                return Span(parent)
            if parent is None and not self._gate():
                return Span(TraceContext.new(sampled=False))
        span = self._tracer.start_span(
            name,
            self._nowhere if parent is None else self._place(parent),
            self._kinds[kind],
            attributes,
            [self._trace.Link(self._foreign(link)) for link in links if link is not None],
            start_ns,
        )
        made = span.get_span_context()
        sampled = bool(made.trace_flags.sampled)
        context = TraceContext(
            f"{made.trace_id:032x}", f"{made.span_id:016x}", sampled, parent.state if parent else ""
        )
        return _Recorded(span, context) if sampled else Span(context)

    def _place(self, parent: TraceContext) -> Any:
        return self._trace.set_span_in_context(self._trace.NonRecordingSpan(self._foreign(parent)))

    def _foreign(self, context: TraceContext) -> Any:
        trace = self._trace
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if context.sampled else trace.TraceFlags.DEFAULT)
        state = trace.TraceState.from_header([context.state]) if context.state else None
        return trace.SpanContext(
            int(context.trace_id, 16),
            int(context.span_id, 16),
            is_remote=True,
            trace_flags=flags,
            trace_state=state,
        )

    def close(self) -> None:
        """See :class:`Tracer`."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(_CLOSE_S)
        if last.is_alive():
            log.warning("spans_left_behind", waited_s=_CLOSE_S)
            self._exporter.shutdown()  # ends its retries, and with them the SDK's threads
            last.join(_GIVE_UP_S)
