"""The webhook that a request names, and the JSON objects of the room."""

from __future__ import annotations

from typing import Any, Final

from api.http.errors import ApiError
from api.services import Services
from broker.webhook_records import DeadLetter, Try, Webhook
from jobs.webhooks import Event, is_webhook_id

NO_STORE: Final = {"cache-control": "no-store"}
"""Headers of an answer with a secret."""


def webhook_not_found(webhook_id: str) -> ApiError:
    """Make the 404 for an endpoint."""
    message = f"there is no webhook {webhook_id[:64]!r}; GET /v1/webhooks lists them"
    return ApiError(404, message, "webhook_not_found", param="webhook_id")


async def found_webhook(services: Services, webhook_id: str, owner: str | None) -> Webhook:
    """Read an endpoint.

    Args:
        owner: the tenant that asks; None: an admin.

    Raises:
        ApiError: 404, it does not exist, or is another tenant's.
    """
    found = await services.webhooks.get(webhook_id, owner=owner) if is_webhook_id(webhook_id) else None
    if found is None:
        raise webhook_not_found(webhook_id)
    return found


def webhook_view(webhook: Webhook, now_ms: int) -> dict[str, Any]:
    """Return the endpoint object."""
    overlap = webhook.overlap_ms
    return {
        "id": webhook.id,
        "object": "webhook",
        "tenant": webhook.tenant,
        "url": webhook.url,
        "events": list(webhook.events),
        "description": webhook.description,
        "state": "active" if webhook.active else "disabled",
        "disabled_reason": webhook.reason or None,
        "created_at": webhook.created_ms // 1000,
        "overlap_until": overlap // 1000 if overlap is not None and overlap > now_ms else None,
        "pending": webhook.pending,
        "dead": webhook.dead,
    }


def delivery_view(one: Try) -> dict[str, Any]:
    """Return the object of a try."""
    return {
        "id": one.id,
        "object": "webhook.delivery",
        "event": _event_view(one.event),
        "attempt": one.number,
        "at": one.at_ms / 1000,
        "delivered": one.status is not None and 200 <= one.status < 300,
        "status": one.status,
        "error": one.error or None,
        "took_ms": one.took_ms,
        "answer": one.answer,
    }


def dead_letter_view(one: DeadLetter) -> dict[str, Any]:
    """Return the object of a dead letter."""
    return {
        "id": one.id,
        "object": "webhook.dead_letter",
        "event": _event_view(one.event),
        "reason": one.why,
        "attempts": one.tries,
        "at": one.at_ms / 1000,
    }


def _event_view(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.kind,
        "object_id": event.object_id,
        "created_at": event.at_ms / 1000,
    }
