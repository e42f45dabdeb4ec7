"""Answering a call with its job's end, as one response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import structlog
from msgspec.structs import replace
from starlette.types import Send

from api.http.asgi import Header, reply
from api.http.errors import RATE_LIMIT, RETRY_WORKER_S, SERVER, ApiError, retry_after
from api.http.job_end import answer, ended_without_result, timing_headers
from api.http.strict import shaped_whole
from api.http.texts import shown_body
from api.services import Services
from broker.endings import Ending
from broker.events.inbox import Inbox
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
    if ending.state is not JobState.SUCCEEDED:
        refusal = await refusal_of(services, spec, ending)
        services.metrics.errors.labels(refusal.code).inc()
        if _is_late(ending):
            headers = refusal.raw_headers() + timing_headers(spec.id, ending)
            return partial(reply, send, refusal.status, refusal.body(), headers)
    status, body, headers = await whole_end(services, spec, ending)
    body, kind = shown_body(status, body)
    return partial(reply, send, status, body, headers, content_type=kind)


async def whole_end(services: Services, spec: JobSpec, ending: Ending) -> tuple[int, bytes, list[Header]]:
    """Return status, body and further headers of the response for a job that has ended.

    Raises:
        LookupError: the job's record is gone.
        StoreUnavailableError: Redis is away when the result is read.
    """
    if not ending.result and ending.state in {JobState.SUCCEEDED, JobState.FAILED}:
        stored = await services.store.result(spec.id, owner=spec.tenant)
        ending = replace(ending, status=ending.status or stored.status, result=stored.body or b"")
    status, body, headers = answer(spec.id, ending, spec.shown)
    if services.settings.openai_strict and ending.state is JobState.SUCCEEDED:
        body = await services.bodies.run(len(body), shaped_whole, spec.endpoint, body)
    return status, body, headers


async def refusal_of(services: Services, spec: JobSpec, ending: Ending) -> ApiError:
    """Return the error for a job that ended badly. If it was late, ``Retry-After`` says how long a new one would wait."""
    if not _is_late(ending):
        return ended_without_result(spec.id, ending)
    if not services.catalogue.has_workers(spec.pool):
        wait_s = max(RETRY_WORKER_S, services.catalogue.replica(spec.pool).start_s)
        return no_start(spec, wait_s * 1000, awake=False)
    _, eta_ms = await services.store.outlook(spec.pool, spec.lane, spec.tenant)
    return no_start(spec, eta_ms)


def _is_late(ending: Ending) -> bool:
    """Return whether the job did not start in time."""
    return ending.state is JobState.EXPIRED and ending.in_queue


def record_gone(job_id: str) -> ApiError:
    """Make the 500 for a job whose record was deleted under its caller."""
    return ApiError(500, f"the record of {job_id} is no longer stored", "internal_error", type_=SERVER)


def no_start(spec: JobSpec, wait_ms: float | None, *, awake: bool = True) -> ApiError:
    """Make the answer for a job that does not start in time: 503, or of the tier ``flex`` 429.

    Args:
        wait_ms: the wait of a new job; None: unknown.
        awake: its pool has a worker.
    """
    if spec.lane is FLEX:
        return resource_unavailable(wait_ms)
    why = "too many jobs wait before it" if awake else "no worker of its pool has started yet"
    return queue_timeout(spec.id, wait_ms, why)


def resource_unavailable(wait_ms: float | None) -> ApiError:
    """Make OpenAI's 429 for a call of the tier ``flex`` while there is too much other work."""
    wait_s = retry_after(wait_ms)
    message = f"Resource unavailable: too many jobs wait before this call; retry in {wait_s} s, or with another service_tier"
    return ApiError(429, message, "resource_unavailable", type_=RATE_LIMIT, retry_after_s=wait_s)


def queue_timeout(job_id: str, wait_ms: float | None, why: str) -> ApiError:
    """Make the 503 for a job that does not start in time. ``wait_ms``: the wait of a new job; None: unknown."""
    wait_s = retry_after(wait_ms)
    message = f"Queue timeout: {job_id} could not start in time, since {why}; retry in {wait_s} s"
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
