"""Traces: one per job, from the HTTP request across the queue into the engine, sent as OTLP over HTTP.

OpenTelemetry's SDK is imported here alone, and only where traces are on. Without them :class:`Tracer` hands out spans that
record nothing and only pass a caller's context on, so that the hot path pays for an attribute look-up and no more.

No span holds a prompt or a completion.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeAlias

import structlog

from monitoring.sampling import Gate
from monitoring.trace_context import TraceContext

log = structlog.get_logger(__name__)

Value: TypeAlias = str | bool | int | float
Attributes: TypeAlias = Mapping[str, Value]

_CLOSE_S = 3.0
"""How long the last spans may take at the end of a process; a collector that is away must not hold it up."""
_GIVE_UP_S = 0.5
"""How long the exporter may take to let go of them then. A request that is under way cannot be cut off."""


class Kind(Enum):
    """OpenTelemetry's kinds of span, by its own names."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Span:
    """A piece of work in a trace. This one records nothing: it stands where no trace is wanted.

    Attributes:
        context: where what comes next belongs; None where there is no trace at all.
    """

    __slots__ = ("context",)
    recording = False
    """Whether attributes are worth making."""

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def rename(self, name: str) -> None:
        """Give it another name."""

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Note what happened at this moment."""

    def error(self, kind: str, message: str = "") -> None:
        """Say that the work failed. ``kind``: a failure code or the like, one of few; ``message``: no part of a prompt."""

    def end(self, at_ns: int | None = None) -> None:
        """Say that the work is over, now or at a Unix time in nanoseconds. What is called after it has no effect."""


NO_SPAN = Span(None)


class Tracer:
    """Begins spans. This one is off."""

    enabled = False

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
        """Begin a span.

        Args:
            name: what is done, one of few names.
            kind: OpenTelemetry's kind.
            parent: the span it is part of; None begins a trace.
            attributes: what is known already, by OpenTelemetry's names.
            links: places in other traces that have to do with it; a row of a batch names the chunk that ran it.
            start_ns: Unix time in nanoseconds; None is now.
        """
        return NO_SPAN if parent is None else Span(parent)

    def close(self) -> None:
        """Send what is left, within three seconds, and give up on what could not be sent."""


def make_tracer(
    service: str,
    endpoint: str | None,
    *,
    ratio: float = 1.0,
    max_per_s: float = 0.0,
    resource: Attributes | None = None,
) -> Tracer:
    """Make a process's tracer: off, unless an endpoint is given here or by OpenTelemetry's own environment variables.

    What those say about exporter, headers, resource, limits and sampler is heeded; ``OTEL_TRACES_SAMPLER`` replaces
    ``ratio`` and ``max_per_s``, ``OTEL_SDK_DISABLED=true`` and ``OTEL_TRACES_EXPORTER=none`` turn traces off.

    Args:
        service: the service's name, unless the environment gives another.
        endpoint: the collector's address, with or without ``/v1/traces``.
        ratio: share of the traces begun here that is recorded, 0.0 to 1.0.
        max_per_s: at most so many traces begun here are recorded per second; 0.0 is no limit. Traces that a caller began
            are recorded as the caller says.
        resource: what else there is to say about the process.
    """
    url = traces_url(endpoint)
    if url is None:
        return Tracer()
    gate = None if os.environ.get("OTEL_TRACES_SAMPLER") else Gate(ratio, max_per_s)
    return _OtlpTracer(service, url, gate, resource or {})


def traces_url(endpoint: str | None) -> str | None:
    """Return the address that spans go to, with its path; None where traces are off. Arguments as of :func:`make_tracer`."""
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
    """Whether the environment means OTLP over HTTP. Ours is the only setting that may be silent about it."""
    env = os.environ
    protocol = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol in {None, "", "http/protobuf"}:
        return True
    log.warning("traces_off", reason=f"OTLP over {protocol} is not spoken here, only http/protobuf")
    return False


class _Recorded(Span):
    """A span of OpenTelemetry's."""

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
        # Resource.create would let ours win over the environment's, whose service name also has a default.
        resources = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
        # Where the gate decides, whatever reaches the SDK is to be recorded; else its sampler is the environment's.
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
