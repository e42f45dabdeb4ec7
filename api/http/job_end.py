"""How a job's end looks to a caller who waited for it: a response, or an OpenAI error. Pure."""

from __future__ import annotations

from typing import Any

from api.http.asgi import Header
from api.http.errors import RETRY_WORKER_S, SERVER, ApiError
from broker.records import Ending
from jobs.failures import FAILURES, FailureCode
from jobs.model import JobError, Usage
from jobs.states import JobState


def timing_headers(job_id: str, ending: Ending | None = None) -> list[Header]:
    """Return ``x-penstock-*``; the timings once they are known."""
    headers = [(b"x-penstock-job-id", job_id.encode())]
    if ending is not None:
        for name, value in ((b"queue", ending.timings.queue_ms), (b"total", ending.timings.total_ms)):
            if value is not None:
                headers.append((b"x-penstock-%s-ms" % name, b"%d" % value))
    return headers


def failure(error: JobError, status: int | None = None) -> ApiError:
    """Return a failed job's error.

    Args:
        error: why it failed.
        status: the engine's own HTTP status, where it gave one.
    """
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


def ended_without_result(job_id: str, ending: Ending) -> ApiError:
    """Return the error of a job that ended without a response body."""
    if ending.state is JobState.CANCELLED:
        return ApiError(409, f"{job_id} was cancelled", "job_cancelled")
    if ending.state is JobState.EXPIRED:
        late = (
            "was not started within its queue_timeout_s"
            if ending.in_queue
            else "was not done before its deadline"
        )
        return ApiError(504, f"{job_id} {late}", "expired", type_="timeout_error")
    if ending.error is not None:
        return failure(ending.error, ending.status)
    if ending.state is JobState.FAILED:
        return failure(JobError(FailureCode.INTERNAL, "no reason was recorded"), ending.status)
    return ApiError(500, f"the result of {job_id} is gone", "internal_error", type_=SERVER)


def answer(job_id: str, ending: Ending) -> tuple[int, bytes, list[Header]]:
    """Return status, body and further headers for a caller who waited for the end.

    Args:
        job_id: the job.
        ending: its end, with the result where there is one.
    """
    headers = timing_headers(job_id, ending)
    if ending.result and ending.state is JobState.SUCCEEDED:
        return ending.status or 200, ending.result, headers
    error = ended_without_result(job_id, ending)
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if ending.result and ending.state is JobState.FAILED:  # the engine's own words
        return error.status, ending.result, headers
    return error.status, error.body(), headers


def usage_json(usage: Usage | None) -> dict[str, int] | None:
    """Return token counts as OpenAI names them."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def stream_facts(job_id: str, ending: Ending) -> dict[str, Any]:
    """Return the ``penstock`` member of a stream's last chunk."""
    t = ending.timings
    return {
        "job_id": job_id,
        "queue_ms": t.queue_ms,
        "ttft_ms": None if t.first_token_ms is None else t.first_token_ms - t.queued_ms,
        "total_ms": t.total_ms,
        "tokens_per_s": t.tokens_per_s(ending.usage),
    }
