"""The spans of an attempt: its wait, the claim, the engine's run, and how it ended."""

from __future__ import annotations

import time

import msgspec

from broker.batch_chunks import ChunkSpec
from broker.claims import Claim
from jobs.endpoints import CHUNK_ENDPOINT, task_of
from monitoring.otlp import make_tracer
from monitoring.trace_context import TraceContext
from monitoring.tracing import NO_SPAN, Attributes, Kind, Span, Tracer
from workers.settings import WorkerSettings


def tracer_for(settings: WorkerSettings, worker: str) -> Tracer:
    """Make a worker's tracer. ``worker``: its incarnation. Call it after the engine's start: vLLM may fork."""
    resource = {
        "service.instance.id": worker,
        "service.namespace": settings.namespace,
        "penstock.pool": settings.pool,
        "penstock.engine": settings.engine,
    }
    return make_tracer(
        "penstock-worker",
        settings.otlp_endpoint,
        ratio=settings.trace_ratio,
        max_per_s=settings.trace_max_per_s,
        resource=resource,
    )


class AttemptSpans:
    """The spans of one attempt. Nothing is recorded if its job's trace is not."""

    __slots__ = ("_tracer", "span")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self.span = span

    def step(self, name: str) -> Span:
        """Begin a part of the attempt."""
        return self._tracer.begin(name, Kind.INTERNAL, self.span.context) if self.span.recording else NO_SPAN

    def engine(self, claim: Claim, engine: str) -> Span:
        """Begin the engine's run. Its context is the parent of the engine's own spans."""
        if not self.span.recording:
            return self.span
        operation = task_of(claim.endpoint)
        facts: Attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": engine,
            "gen_ai.request.model": claim.model,
            "penstock.stream": claim.stream,
        }
        return self._tracer.begin(f"{operation} {claim.model}", Kind.CLIENT, self.span.context, facts)

    def end(self, state: str | None, reason: str | None) -> None:
        """End the attempt, with the state it gave the job, or with the reason why it gave none."""
        span = self.span
        if span.recording:
            outcome = state or reason or "unknown"
            span.set({"penstock.attempt.outcome": outcome})
            if outcome != "succeeded":
                span.event(outcome)
            if state == "failed" or outcome in {"fenced", "crashed"}:
                span.error(reason or outcome)
        span.end()


NO_SPANS = AttemptSpans(Tracer(), NO_SPAN)


def begin_attempt(tracer: Tracer, claim: Claim, worker: str, queue: str, asked_ns: int) -> AttemptSpans:
    """Begin the spans of an attempt that has just been claimed.

    Args:
        worker: this worker's incarnation.
        asked_ns: when the claim was sent, Unix nanoseconds.
    """
    place = TraceContext.decode(claim.trace)
    if place is None and not tracer.enabled:
        return NO_SPANS
    if place is not None and not (tracer.enabled and place.sampled):
        return AttemptSpans(tracer, Span(place))
    now_ns = time.time_ns()
    facts: Attributes = {
        "messaging.system": "celery",
        "messaging.operation.type": "process",
        "messaging.operation.name": "run",
        "messaging.destination.name": queue,
        "messaging.message.id": claim.id,
        "messaging.client.id": worker,
        "gen_ai.request.model": claim.model,
        "penstock.job.id": claim.id,
        "penstock.job.attempt": claim.attempt,
        "penstock.worker": worker,
        "penstock.lane": claim.lane.value,
    }
    if claim.waited_ms is not None and place is not None:
        # By one clock, Redis's: only the length of the wait travels, so that the machines' clocks do not matter.
        start_ns = now_ns - claim.waited_ms * 1_000_000
        tracer.begin(f"wait {queue}", Kind.INTERNAL, place, start_ns=start_ns).end(now_ns)
    # Without a place, as for a chunk of a batch, which no request brought by itself, it begins a trace. It links to the
    # request that brought the batch: that trace would not end before the batch does, days later maybe.
    links = []
    if claim.endpoint == CHUNK_ENDPOINT:
        links.append(TraceContext.decode(msgspec.json.decode(claim.body, type=ChunkSpec).trace))
    span = tracer.begin(f"process {queue}", Kind.CONSUMER, place, facts, links=links, start_ns=asked_ns)
    if not span.recording:
        return AttemptSpans(tracer, span)
    tracer.begin("claim", Kind.INTERNAL, span.context, start_ns=asked_ns).end(now_ns)
    if claim.attempt > 1:
        span.event("restarted", {"penstock.job.attempt": claim.attempt})
    return AttemptSpans(tracer, span)
