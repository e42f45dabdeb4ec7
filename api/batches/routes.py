"""OpenAI's Batches API: its routes."""

from __future__ import annotations

from typing import Annotated

import msgspec
import structlog
from fastapi import APIRouter, Query, Request, Response
from starlette.types import Receive, Scope, Send

from api.access.identity import actor_of, identity_of, owner_of
from api.admission.unknown_fields import STRICT_HEADER
from api.batches.create import create_batch, refuse_limited_key
from api.batches.schema import CREATE_BODY, BatchList, BatchObject
from api.batches.view import batch_view, found_batch
from api.http.asgi import add_raw_route, asks, json_response, reply
from api.http.body import parse_object, read_control_body
from api.http.errors import ApiError
from api.http.idempotency import idempotency_key, key_parameter
from api.http.openapi import answers
from api.http.pages import Limit, Order, list_view, not_of_list
from api.middleware.trace import asked_by, place_of
from api.services import Services
from jobs.batches import BatchStatus
from jobs.ids import is_batch_id

log = structlog.get_logger(__name__)


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    async def create(scope: Scope, receive: Receive, send: Send) -> None:
        refuse_limited_key(scope)
        key = idempotency_key(scope)
        body = parse_object(await read_control_body(scope, receive))
        strict = asks(scope, STRICT_HEADER)
        batch, _ = await create_batch(services, body, key, identity_of(scope), place_of(scope), strict=strict)
        await reply(send, 200, msgspec.json.encode(batch_view(batch)))

    add_raw_route(
        router,
        "POST",
        "/v1/batches",
        create,
        name="create_batch",
        operation_id="createBatch",
        summary="Create a batch",
        description="Answered with status `validating`; its rows are checked and run after that. With the header "
        "`x-penstock-strict: 1`, a row with an unknown field makes the batch fail.",
        responses=answers(BatchObject, 400, 403, 409, 413, 429, 503),
        openapi_extra={"requestBody": CREATE_BODY, "parameters": [key_parameter("batch")]},
    )

    @router.get(
        "/v1/batches",
        operation_id="listBatches",
        summary="List batches",
        responses=answers(BatchList, 400, 503),
    )
    async def list_batches(
        request: Request,
        after: Annotated[str | None, Query(description="The last batch's id of the previous page.")] = None,
        limit: Limit = 20,
        order: Order = "desc",
    ) -> Response:
        """Newest first."""
        if after is not None and not is_batch_id(after):
            raise not_of_list(after, "a batch")
        found, more = await services.batches.page(
            after=after, limit=limit, newest_first=order == "desc", owner=owner_of(request.scope)
        )
        return json_response(list_view([batch_view(batch) for batch in found], more=more))

    @router.get(
        "/v1/batches/{batch_id}",
        operation_id="getBatch",
        summary="Get a batch",
        responses=answers(BatchObject, 404, 503),
    )
    async def get_batch(batch_id: str, request: Request) -> Response:
        """With its current counts, rate and usage."""
        return json_response(batch_view(await found_batch(services, batch_id, owner_of(request.scope))))

    @router.post(
        "/v1/batches/{batch_id}/cancel",
        operation_id="cancelBatch",
        summary="Cancel a batch",
        responses=answers(BatchObject, 404, 409, 503),
    )
    async def cancel_batch(batch_id: str, request: Request) -> Response:
        """`cancelling` at once. When its rows have stopped: `cancelled`, with the finished rows in its files."""
        owner = owner_of(request.scope)
        batch = await found_batch(services, batch_id, owner)
        status = await services.batches.cancel(batch.id, owner=owner, by=actor_of(request.scope))
        if status not in {BatchStatus.CANCELLING, BatchStatus.CANCELLED}:
            message = f"Cannot cancel a batch with status '{batch.status if status is None else status}'."
            raise ApiError(409, message, "batch_finished", param="batch_id")
        log.info("batch_cancel_asked", batch=batch.id, tenant=asked_by(request.scope))
        return json_response(batch_view(await found_batch(services, batch_id, owner)))

    responses = answers(BatchObject, 404, 409, 503)

    @router.post(
        "/v1/batches/{batch_id}/pause",
        operation_id="pauseBatch",
        summary="Pause a batch",
        responses=responses,
    )
    async def pause(batch_id: str, request: Request) -> Response:
        """Running rows end, and no more start until it is resumed. Its window continues."""
        return await _set_paused(services, batch_id, request, paused=True)

    @router.post(
        "/v1/batches/{batch_id}/resume",
        operation_id="resumeBatch",
        summary="Resume a batch",
        responses=responses,
    )
    async def resume(batch_id: str, request: Request) -> Response:
        """Resume a paused batch."""
        return await _set_paused(services, batch_id, request, paused=False)


async def _set_paused(services: Services, batch_id: str, request: Request, *, paused: bool) -> Response:
    owner = owner_of(request.scope)
    batch = await found_batch(services, batch_id, owner)
    status = await services.batches.pause(batch.id, paused=paused, owner=owner, by=actor_of(request.scope))
    if status not in {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}:
        word = "pause" if paused else "resume"
        message = f"Cannot {word} a batch with status '{batch.status if status is None else status}'."
        raise ApiError(409, message, "batch_finished", param="batch_id")
    log.info("batch_paused" if paused else "batch_resumed", batch=batch.id, tenant=asked_by(request.scope))
    return json_response(batch_view(await found_batch(services, batch_id, owner)))
