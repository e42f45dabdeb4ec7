"""Accepting a job: the store's call, as a step of the request's trace, with its log line and its metric."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from msgspec.structs import replace

from api.services import Services
from broker.acceptance import Accepted
from broker.db.errors import StoreUnavailableError
from jobs.access import Actor
from jobs.endpoints import task_of
from jobs.model import JobSpec
from monitoring.trace_context import TraceContext
from monitoring.tracing import NO_SPAN, Kind, Span

log = structlog.get_logger(__name__)


async def accept(
    services: Services,
    spec: JobSpec,
    span: Span,
    links: Iterable[TraceContext | None] = (),
    by: Actor | None = None,
) -> Accepted:
    """Accept a job as :meth:`broker.acceptance.Acceptance.accept` does, which see for the errors.

    Args:
        links: related traces.
        by: who asked, if it is a retry.
    """
    if not services.prepared.is_set():
        raise StoreUnavailableError("accept: the version of the data in Redis is not known yet")
    step = _begin(services, spec, span, links)
    if step.context is not None:
        spec = replace(spec, trace=step.context.encode())
        structlog.contextvars.bind_contextvars(job_id=spec.id, trace_id=step.context.trace_id)
    else:
        structlog.contextvars.bind_contextvars(job_id=spec.id)
    try:
        shared = services.catalogue.shares_storage(spec.pool)
        accepted = await services.store.accept(spec, by=by, in_storage=shared)
    except Exception as error:
        step.error(type(error).__name__)
        raise
    finally:
        step.end()
    if not accepted.replayed:
        services.metrics.count_accepted(spec.lane, spec.tenant)
    log.debug(
        "job_known" if accepted.replayed else "job_accepted",
        job_id=accepted.id,
        model=spec.model,
        pool=spec.pool,
        lane=spec.lane.value,
        endpoint=spec.endpoint,
        body_bytes=len(spec.body),
    )
    return accepted


def _begin(services: Services, spec: JobSpec, span: Span, links: Iterable[TraceContext | None]) -> Span:
    """Begin the span of a job's way into its queue, below the request's. The job's attempts belong to it."""
    if not span.recording:
        return Span(span.context) if span.context is not None else NO_SPAN
    span.set(
        {
            "gen_ai.operation.name": task_of(spec.endpoint),
            "gen_ai.request.model": spec.model,
            "penstock.job.id": spec.id,
        }
    )
    queue = services.store.keys("queue", spec.pool, spec.lane)
    return services.tracer.begin(
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
