"""How a job's end is answered to a caller who waited for it: a response or an OpenAI error. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.http.asgi import Header
from api.http.errors import RETRY_WORKER_S, ApiError
from api.http.shown import NOTHING, with_shown
from broker.endings import Ending
from jobs.failures import FAILURES, FailureCode
from jobs.model import JobError, Usage
from jobs.states import JobState


def timing_headers(job_id: str, ending: Ending | None = None) -> list[Header]:
    """Return ``x-penstock-*``; with the timings once the job has ended."""
    headers = [(b"x-penstock-job-id", job_id.encode())]
    if ending is not None:
        for name, value in ((b"queue", ending.timings.queue_ms), (b"total", ending.timings.total_ms)):
            if value is not None:
                headers.append((b"x-penstock-%s-ms" % name, b"%d" % value))
    return headers


def failure(error: JobError, status: int | None = None) -> ApiError:
    """Return a failed job's error. ``status``: the engine's own HTTP status, if it gave one."""
    info = FAILURES[error.code]
    status = status or info.http_status
    return ApiError(
        status,
        error.message,
        error.code,
        type_=info.error_type,
        param=error.param,
        retry_after_s=RETRY_WORKER_S if status in {429, 503} else None,
    )


def worker_lost(advice: str) -> ApiError:
    """Return the error that ends a stream whose attempt was lost. ``advice``: what its reader can do."""
    info = FAILURES[FailureCode.WORKER_LOST]
    message = f"the worker was lost after part of the answer was sent; {advice}"
    return ApiError(info.http_status, message, FailureCode.WORKER_LOST, type_=info.error_type)


def ended_without_result(job_id: str, ending: Ending) -> ApiError:
    """Return the error of a job that ended without a response body."""
    if ending.state is JobState.CANCELLED:
        return ApiError(409, f"{job_id} was cancelled", "job_cancelled")
    if ending.state is JobState.EXPIRED:
        limit = "start within its queue_timeout_s" if ending.in_queue else "end before its deadline"
        return ApiError(504, f"{job_id} did not {limit}", "expired", type_="timeout_error")
    if ending.error is not None:
        return failure(ending.error, ending.status)
    if ending.state is JobState.FAILED:
        return failure(JobError(FailureCode.INTERNAL, "no reason was recorded"), ending.status)
    message = f"the result of {job_id} is no longer stored; with store: false it is kept until it was fetched"
    return ApiError(410, message, "result_gone")


def answer(
    job_id: str, ending: Ending, shown: Mapping[str, Any] = NOTHING
) -> tuple[int, bytes, list[Header]]:
    """Return status, body and further headers for a caller who waited for the end.

    Args:
        job_id: the job.
        ending: its end, with the result if there is one.
        shown: see :attr:`jobs.model.JobSpec.shown`.
    """
    headers = timing_headers(job_id, ending)
    if ending.result and ending.state is JobState.SUCCEEDED:
        return ending.status or 200, with_shown(ending.result, shown, ending.timings.finished_ms), headers
    error = ended_without_result(job_id, ending)
    headers += error.raw_headers()
    if ending.result and ending.state is JobState.FAILED:  # the engine's own error body
        return error.status, ending.result, headers
    return error.status, error.body(), headers


def usage_view(usage: Usage | None) -> dict[str, int] | None:
    """Return token counts with OpenAI's names."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
