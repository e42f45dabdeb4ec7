"""OpenAI's Batches API."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Query, Response
from starlette.types import Receive, Scope, Send

from api.access.authenticate import tenant_of
from api.batches.create import create_batch
from api.batches.view import BatchList, BatchObject, batch_not_found, batch_view
from api.http.asgi import add_raw_route, json_response, reply
from api.http.body import parse_object, read_body
from api.http.errors import ApiError, invalid
from api.http.idempotency import idempotency_key
from api.http.openapi import answers
from api.http.pages import list_view
from api.middleware.trace import place_of
from api.services import Services
from jobs.batch_model import Batch
from jobs.batches import BatchStatus
from jobs.endpoints import BATCH_ENDPOINTS
from jobs.ids import is_batch_id

_KEY_DOCS = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "The same key gives the same batch.",
}
_BODY_DOCS = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["input_file_id", "endpoint", "completion_window"],
                "properties": {
                    "input_file_id": {"type": "string"},
                    "endpoint": {"type": "string", "enum": list(BATCH_ENDPOINTS)},
                    "completion_window": {"type": "string", "pattern": "^[1-9][0-9]*[smhd]$"},
                    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                    "output_expires_after": {
                        "type": "object",
                        "properties": {"anchor": {"const": "created_at"}, "seconds": {"type": "integer"}},
                    },
                    "priority": {"enum": ["high", "normal", "low", "bulk"], "default": "bulk"},
                },
            },
            "example": {
                "input_file_id": "file-0199f3a2c4d57e8f9a0b1c2d3e4f5a6b",
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        }
    },
}


async def found_batch(services: Services, batch_id: str) -> Batch:
    """Read a batch.

    Raises:
        ApiError: 404, there is none.
    """
    batch = await services.batches.get(batch_id) if is_batch_id(batch_id) else None
    if batch is None:
        raise batch_not_found(batch_id)
    return batch


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    async def create(scope: Scope, receive: Receive, send: Send) -> None:
        key = idempotency_key(scope)
        body = parse_object(await read_body(scope, receive, services.settings.max_body_bytes))
        batch, _ = await create_batch(services, body, key, tenant_of(scope), place_of(scope))
        await reply(send, 200, msgspec.json.encode(batch_view(batch)))

    add_raw_route(
        router,
        "POST",
        "/v1/batches",
        create,
        name="create_batch",
        summary="Create a batch",
        description="Answered `validating`; its rows are checked and run behind that.",
        responses=answers(BatchObject, 400, 409, 413, 503),
        openapi_extra={"requestBody": _BODY_DOCS, "parameters": [_KEY_DOCS]},
    )

    @router.get(
        "/v1/batches",
        summary="List batches",
        responses=answers(BatchList, 400, 503),
    )
    async def list_batches(
        after: Annotated[str | None, Query(description="A batch's id: those behind it.")] = None,
        limit: Annotated[int, Query(ge=1, le=100, description="Batches in a page.")] = 20,
        order: Annotated[Literal["asc", "desc"], Query(description="By creation time.")] = "desc",
    ) -> Response:
        """Newest first."""
        if after is not None and not is_batch_id(after):
            raise invalid(f"after: not a batch's id: {after[:64]!r}", "after")
        found, more = await services.batches.page(after=after, limit=limit, newest_first=order == "desc")
        return json_response(list_view([batch_view(batch) for batch in found], more=more))

    @router.get(
        "/v1/batches/{batch_id}",
        summary="Get a batch",
        responses=answers(BatchObject, 404, 503),
    )
    async def get_batch(batch_id: str) -> Response:
        """With counts, rate and usage as of now."""
        return json_response(batch_view(await found_batch(services, batch_id)))

    @router.post(
        "/v1/batches/{batch_id}/cancel",
        summary="Cancel a batch",
        responses=answers(BatchObject, 404, 409, 503),
    )
    async def cancel_batch(batch_id: str) -> Response:
        """`cancelling` at once. When its rows have stopped: `cancelled`, with the finished rows in its files."""
        batch = await found_batch(services, batch_id)
        status = await services.batches.cancel(batch.id)
        if status not in {BatchStatus.CANCELLING, BatchStatus.CANCELLED}:
            message = f"Cannot cancel a batch with status '{batch.status if status is None else status}'."
            raise ApiError(409, message, "batch_finished", param="batch_id")
        return json_response(batch_view(await found_batch(services, batch_id)))
