"""The job that a request names, and its JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api.http.errors import ApiError
from api.http.job_end import usage_view
from api.http.pages import cursor_view
from api.http.shown import with_shown
from api.services import Services
from broker.listing import Page
from jobs.ids import is_job_id
from jobs.model import Failed, Job, Queued, Running, Succeeded
from monitoring.trace_context import TraceContext


def job_view(
    job: Job,
    result: bytes | None = None,
    partial: bytes | None = None,
    warnings: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the job object.

    Args:
        job: the job.
        result: its raw response, JSON; None: ``result`` is null.
        partial: the incomplete response of a job that did not succeed; None: ``partial`` is null.
        warnings: warnings for its submitter, each with ``code``, ``message`` and more.
    """
    phase, t = job.phase, job.timings
    usage = None if isinstance(phase, Queued | Running) else phase.usage
    error = phase.error if isinstance(phase, Failed) else None
    path = f"/v1/jobs/{job.id}"
    place = TraceContext.decode(job.trace)
    return {
        "id": job.id,
        "object": "job",
        "state": job.state.value,
        "endpoint": job.endpoint,
        "model": job.model,
        "tenant": job.tenant,
        "pool": job.pool,
        "priority": job.lane.value,
        "stream": job.stream,
        "store": not job.once,
        "metadata": job.metadata,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "position": phase.position if isinstance(phase, Queued) else None,
        "eta_s": _seconds(phase.eta_ms) if isinstance(phase, Queued) else None,
        "created_at": t.queued_ms / 1000,
        "expires_at": _seconds(job.expires_at_ms),
        "queue_timeout_s": _seconds(job.queue_timeout_ms),
        "timeout_s": _seconds(job.timeout_ms),
        "not_before": _seconds(job.not_before_ms),
        "retry_of": job.retry_of,
        "retried_as": job.retried_as,
        "coalesced_with": job.coalesced_with,
        "webhook_url": job.webhook,
        "trace_id": None if place is None else place.trace_id,
        "timings": {
            "queued_at": t.queued_ms / 1000,
            "started_at": _seconds(t.started_ms),
            "first_token_at": _seconds(t.first_token_ms),
            "finished_at": _seconds(t.finished_ms),
            "queue_ms": t.queue_ms,
            "total_ms": t.total_ms,
            "tokens_per_s": t.tokens_per_s(usage),
        },
        "usage": usage_view(usage),
        "error": None
        if error is None
        else {"code": error.code, "message": error.message, "param": error.param},
        "cancel_requested": job.cancel_requested,
        "worker": phase.worker if isinstance(phase, Running | Succeeded) else None,
        "history": [
            {"attempt": a.attempt, "worker": a.worker, "reason": a.reason, "ended_at": a.ended_ms / 1000}
            for a in job.history
        ],
        "warnings": list(warnings),
        "links": {
            "status_url": path,
            "events_url": f"{path}/events",
            "cancel_url": f"{path}/cancel",
            "result_url": f"{path}/result",
        },
        "result": msgspec.Raw(with_shown(result, job.shown, t.finished_ms)) if result else None,
        "partial": msgspec.Raw(with_shown(partial, job.shown)) if partial else None,
    }


def page_view(page: Page) -> dict[str, Any]:
    """Return a page of jobs as a list object."""
    return cursor_view([job_view(job) for job in page.jobs], page.cursor)


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def job_not_found(job_id: str) -> ApiError:
    """Make the 404 for a job."""
    message = f"the job {job_id!r} does not exist; a finished job is deleted some time after its end"
    return ApiError(404, message, "job_not_found")


def checked_id(job_id: str) -> str:
    """Return the id.

    Raises:
        ApiError: 404, it has not the form of a job id.
    """
    if not is_job_id(job_id):
        raise job_not_found(job_id)
    return job_id


async def found_job(services: Services, job_id: str, owner: str | None) -> Job:
    """Read a job.

    Args:
        owner: the tenant that asks; None: an admin.

    Raises:
        ApiError: 404, it does not exist, or is another tenant's.
    """
    job = await services.store.get(checked_id(job_id), owner=owner)
    if job is None:
        raise job_not_found(job_id)
    return job
