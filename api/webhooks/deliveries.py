"""What was sent to a webhook endpoint, what was given up, and sending it again."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Request, Response

from api.access.identity import actor_of, owner_of
from api.http.asgi import json_response
from api.http.errors import ApiError
from api.http.openapi import answers
from api.http.pages import Limit, list_view
from api.middleware.trace import asked_by
from api.services import Services
from api.webhooks.schema import DeadLetterList, DeliveryList, SentObject
from api.webhooks.view import dead_letter_view, delivery_view, found_webhook, webhook_not_found
from jobs.names import ENTRY_ID

log = structlog.get_logger(__name__)

After = Annotated[
    str | None,
    Query(pattern=ENTRY_ID, description="The last entry's id of the previous page."),
]


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    webhooks = services.webhooks

    @router.get(
        "/v1/webhooks/{webhook_id}/deliveries",
        operation_id="listWebhookDeliveries",
        summary="List tries to deliver",
        responses=answers(DeliveryList, 400, 404, 503),
    )
    async def list_deliveries(
        webhook_id: str, asked: Request, after: After = None, limit: Limit = 20
    ) -> Response:
        """Newest first, of the last 1,000 or so. Those of a single job or batch: of `whe_` and its id."""
        owner = owner_of(asked.scope)
        await found_webhook(services, webhook_id, owner)
        found = await webhooks.tries(webhook_id, after=after, limit=limit, owner=owner)
        if found is None:
            raise webhook_not_found(webhook_id)
        tries, more = found
        return json_response(list_view([delivery_view(one) for one in tries], more=more))

    @router.get(
        "/v1/webhooks/{webhook_id}/dead",
        operation_id="listWebhookDeadLetters",
        summary="List dead letters",
        responses=answers(DeadLetterList, 400, 404, 503),
    )
    async def list_dead(webhook_id: str, asked: Request, after: After = None, limit: Limit = 20) -> Response:
        """Events that were given up, newest first, of the last 10,000 or so."""
        owner = owner_of(asked.scope)
        await found_webhook(services, webhook_id, owner)
        found = await webhooks.dead(webhook_id, after=after, limit=limit, owner=owner)
        if found is None:
            raise webhook_not_found(webhook_id)
        letters, more = found
        return json_response(list_view([dead_letter_view(one) for one in letters], more=more))

    @router.post(
        "/v1/webhooks/{webhook_id}/deliveries/{event}/resend",
        operation_id="resendWebhookEvent",
        summary="Send an event again",
        status_code=202,
        responses=answers(SentObject, 404, 503, status=202),
    )
    async def resend(webhook_id: str, event: str, asked: Request) -> Response:
        """One that was tried, or given up, under its own id. It goes behind what waits."""
        owner = owner_of(asked.scope)
        await found_webhook(services, webhook_id, owner)
        if not await webhooks.resend(webhook_id, event, owner=owner, by=actor_of(asked.scope)):
            message = f"no try and no dead letter of {webhook_id} has the event {event[:64]!r}"
            raise ApiError(404, message, "event_not_found", param="event")
        log.info("webhook_resent", webhook=webhook_id, event_id=event, tenant=asked_by(asked.scope))
        return json_response({"id": event, "object": "webhook.event", "webhook_id": webhook_id}, 202)

    @router.post(
        "/v1/webhooks/{webhook_id}/test",
        operation_id="testWebhook",
        summary="Send a test",
        status_code=202,
        responses=answers(SentObject, 404, 503, status=202),
    )
    async def test(webhook_id: str, asked: Request) -> Response:
        """An event of the type `ping`, whatever the endpoint subscribes to."""
        owner = owner_of(asked.scope)
        await found_webhook(services, webhook_id, owner)
        event = await webhooks.test(webhook_id, owner=owner, by=actor_of(asked.scope))
        if event is None:
            raise webhook_not_found(webhook_id)
        return json_response({"id": event, "object": "webhook.event", "webhook_id": webhook_id}, 202)
