"""Looking up the batch that a request names."""

from __future__ import annotations

from api.http.errors import ApiError
from api.services import Services
from jobs.batch_model import Batch
from jobs.ids import is_batch_id


def batch_not_found(batch_id: str) -> ApiError:
    """Make the 404 for a batch."""
    message = f"the batch {batch_id[:64]!r} does not exist; an ended batch is deleted some time after its end"
    return ApiError(404, message, "batch_not_found", param="batch_id")


async def found_batch(services: Services, batch_id: str) -> Batch:
    """Read a batch.

    Raises:
        ApiError: 404, it does not exist.
    """
    batch = await services.batches.get(batch_id) if is_batch_id(batch_id) else None
    if batch is None:
        raise batch_not_found(batch_id)
    return batch
