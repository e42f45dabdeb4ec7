"""The batch that a request names, and its object: OpenAI's, with Penstock's fields behind it."""

from __future__ import annotations

from typing import Any

from api.admission.unknown_fields import batch_warnings
from api.http.errors import ApiError
from api.services import Services
from jobs.batch_model import Batch
from jobs.batch_rows import RowError
from jobs.batches import BatchStatus
from jobs.ids import is_batch_id

_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def usage_view(batch: Batch) -> dict[str, Any]:
    """Return the batch's usage object."""
    counts = batch.counts
    return {
        "input_tokens": counts.input_tokens,
        "input_tokens_details": {"cached_tokens": counts.cached_tokens},
        "output_tokens": counts.output_tokens,
        "output_tokens_details": {"reasoning_tokens": counts.reasoning_tokens},
        "total_tokens": counts.input_tokens + counts.output_tokens,
    }


def counts_view(batch: Batch) -> dict[str, int]:
    """Return the batch's request counts."""
    counts = batch.counts
    return {"total": counts.total, "completed": counts.completed, "failed": counts.failed}


def progress_view(batch: Batch) -> dict[str, float | None]:
    """Return how fast it goes."""
    running = batch.status is BatchStatus.IN_PROGRESS
    eta_s = batch.eta_s if running and not batch.paused else None
    return {
        "rows_per_s": batch.rows_per_s,
        "tokens_per_s": batch.tokens_per_s,
        "eta_s": None if eta_s is None else round(eta_s, 1),
    }


def pause_view(batch: Batch) -> dict[str, Any]:
    """Return whether and why it stands still."""
    reason = batch.hold or ("paused_by_client" if batch.paused else None)
    return {"paused": reason is not None, "pause_reason": reason}


def batch_view(batch: Batch) -> dict[str, Any]:
    """Return the batch object: every field, null rather than absent."""
    times = {f"{status}_at": _seconds(batch.times.get(status)) for status in _TIMES}
    errors = {"object": "list", "data": [_error(one) for one in batch.errors]} if batch.errors else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_ms // 1000,
        "expires_at": batch.expires_ms // 1000,
        **times,
        "request_counts": counts_view(batch),
        "usage": usage_view(batch),
        "metadata": None if batch.metadata is None else dict(batch.metadata),
        "priority": batch.priority.value,
        "progress": progress_view(batch),
        **pause_view(batch),
        "retry_of": batch.retry_of,
        "retried_as": batch.retried_as,
        "webhook_url": batch.webhook,
        "warnings": batch_warnings(batch),
    }


def _seconds(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000


def _error(error: RowError) -> dict[str, Any]:
    return {"code": error.code.value, "line": error.line, "message": error.message, "param": error.param}


def batch_not_found(batch_id: str) -> ApiError:
    """Make the 404 for a batch."""
    message = f"the batch {batch_id[:64]!r} does not exist; an ended batch is deleted some time after its end"
    return ApiError(404, message, "batch_not_found", param="batch_id")


async def found_batch(services: Services, batch_id: str, owner: str | None) -> Batch:
    """Read a batch.

    Args:
        owner: the tenant that asks; None: an admin.

    Raises:
        ApiError: 404, it does not exist, or is another tenant's.
    """
    batch = await services.batches.get(batch_id, owner=owner) if is_batch_id(batch_id) else None
    if batch is None:
        raise batch_not_found(batch_id)
    return batch
