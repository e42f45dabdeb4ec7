"""Beyond OpenAI's Batches API: pausing and resuming a batch."""

from __future__ import annotations

import structlog
from fastapi import APIRouter, Request, Response

from api.batches.lookup import found_batch
from api.batches.schema import BatchObject
from api.batches.view import batch_view
from api.http.asgi import json_response
from api.http.errors import ApiError
from api.http.openapi import answers
from api.middleware.trace import asked_by
from api.services import Services
from jobs.batches import BatchStatus

log = structlog.get_logger(__name__)


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    responses = answers(BatchObject, 404, 409, 503)

    @router.post("/v1/batches/{batch_id}/pause", summary="Pause a batch", responses=responses)
    async def pause(batch_id: str, request: Request) -> Response:
        """Running rows end, and no more start until it is resumed. Its window continues."""
        return await _set_paused(services, batch_id, request, paused=True)

    @router.post("/v1/batches/{batch_id}/resume", summary="Resume a batch", responses=responses)
    async def resume(batch_id: str, request: Request) -> Response:
        """Resume a paused batch."""
        return await _set_paused(services, batch_id, request, paused=False)


async def _set_paused(services: Services, batch_id: str, request: Request, *, paused: bool) -> Response:
    batch = await found_batch(services, batch_id)
    status = await services.batches.pause(batch.id, paused=paused)
    if status not in {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}:
        word = "pause" if paused else "resume"
        message = f"Cannot {word} a batch with status '{batch.status if status is None else status}'."
        raise ApiError(409, message, "batch_finished", param="batch_id")
    log.info("batch_paused" if paused else "batch_resumed", batch=batch.id, tenant=asked_by(request.scope))
    return json_response(batch_view(await found_batch(services, batch_id)))
