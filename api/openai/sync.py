"""Answering a call with its job's end, as one response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import structlog
from starlette.types import Send

from api.http.asgi import reply
from api.http.errors import RATE_LIMIT, SERVER, ApiError, retry_after
from api.http.job_end import answer, ended_without_result, timing_headers
from api.services import Services
from broker.events.inbox import Inbox
from broker.records import Ending
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.states import JobState
from monitoring.tracing import Span

log = structlog.get_logger(__name__)

FLEX = Lane.LOW
"""The lane of calls of the tier ``flex``; no other call waits in it."""

Last: TypeAlias = Callable[[], Awaitable[None]]
"""Sends the end of a response. The call runs it when no hang-up can interrupt it any more."""


async def answer_whole(services: Services, spec: JobSpec, inbox: Inbox, send: Send, span: Span) -> Last:
    """Wait for a job's end; return what sends its response.

    Raises:
        LookupError: the job's record is gone.
        StoreUnavailableError: Redis is away when the result is read.
    """
    ending = await services.hub.ending(spec.id, inbox)
    note_end(span, spec.id, ending)
    return await answer_end(services, spec, ending, send)


async def answer_end(services: Services, spec: JobSpec, ending: Ending, send: Send) -> Last:
    """Return what sends the response for a job that has ended."""
    if ending.state is JobState.EXPIRED and ending.in_queue:
        return await _too_late(services, spec, ending, send)
    if ending.state is not JobState.SUCCEEDED:
        services.metrics.errors.labels(ended_without_result(spec.id, ending).code).inc()
    if not ending.result and ending.state in {JobState.SUCCEEDED, JobState.FAILED}:
        stored = await services.store.result(spec.id, owner=spec.tenant)
        ending = replace(ending, status=ending.status or stored.status, result=stored.body or b"")
    return partial(reply, send, *answer(spec.id, ending, spec.shown))


async def _too_late(services: Services, spec: JobSpec, ending: Ending, send: Send) -> Last:
    """Answer a caller whose job did not start in time. ``Retry-After`` says how long a new job would wait."""
    _, eta_ms = await services.store.outlook(spec.pool, spec.lane, spec.tenant)
    refusal = no_start(spec, eta_ms)
    services.metrics.errors.labels(refusal.code).inc()
    headers = refusal.raw_headers() + timing_headers(spec.id, ending)
    return partial(reply, send, refusal.status, refusal.body(), headers)


def no_start(spec: JobSpec, wait_ms: float | None) -> ApiError:
    """Make the answer for a job that does not start in time: 503, or of the tier ``flex`` 429."""
    return resource_unavailable(wait_ms) if spec.lane is FLEX else queue_timeout(spec.id, wait_ms)


def resource_unavailable(wait_ms: float | None) -> ApiError:
    """Make OpenAI's 429 for a call of the tier ``flex`` while there is too much other work."""
    wait_s = retry_after(wait_ms)
    message = (
        f"Resource unavailable: too many jobs wait before this call; retry in {wait_s} s, or in another tier"
    )
    return ApiError(429, message, "resource_unavailable", type_=RATE_LIMIT, retry_after_s=wait_s)


def queue_timeout(job_id: str, wait_ms: float | None) -> ApiError:
    """Make the 503 for a job that does not start in time. ``wait_ms``: the wait of a new job; None: unknown."""
    wait_s = retry_after(wait_ms)
    message = f"Queue timeout: {job_id} could not start in time, since too many jobs wait before it; retry in {wait_s} s"
    return ApiError(503, message, "queue_timeout", type_=SERVER, retry_after_s=wait_s)


def note_end(span: Span, job_id: str, ending: Ending) -> None:
    """Log the end of a job that a call waited for, and write it onto the call's span."""
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
