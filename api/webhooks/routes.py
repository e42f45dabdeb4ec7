"""Webhook endpoints: make, list, change and delete them."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response

from api.access.identity import actor_of, identity_of, owner_of, tenant_of
from api.admission.webhook_url import check_webhook_url
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.errors import ApiError
from api.http.openapi import answers, body_docs
from api.http.pages import Limit, list_view, not_of_list
from api.middleware.trace import asked_by
from api.services import Services
from api.webhooks.schema import (
    NewWebhookObject,
    WebhookChange,
    WebhookDeleted,
    WebhookList,
    WebhookObject,
    WebhookRequest,
)
from api.webhooks.view import NO_STORE, found_webhook, webhook_view
from broker.db.errors import TooManyWebhooksError
from broker.settings import TenantName
from broker.webhook_records import Webhook
from jobs.webhooks import ENDPOINT_PREFIX, is_webhook_id

log = structlog.get_logger(__name__)

_EXAMPLE = {"url": "https://example.com/hooks", "events": ["job.failed", "batch.*"]}


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    webhooks, store = services.webhooks, services.store

    async def shown(webhook: Webhook, status: int = 200, **more: Any) -> Response:
        view = webhook_view(webhook, await store.now_ms()) | more
        return json_response(view, status, NO_STORE if more else None)

    @router.post(
        "/v1/webhooks",
        operation_id="createWebhook",
        summary="Create a webhook",
        status_code=201,
        responses=answers(NewWebhookObject, 400, 403, 409, 413, 503, status=201),
        openapi_extra=body_docs(WebhookRequest, _EXAMPLE),
    )
    async def create_webhook(
        asked: Request, request: Annotated[WebhookRequest, control_body(WebhookRequest)]
    ) -> Response:
        """The answer has the secret that signs what is sent. It is shown this once."""
        await check_webhook_url(services, request.url, "url")
        try:
            webhook, secret = await webhooks.create(
                services.new_id(ENDPOINT_PREFIX),
                tenant=tenant_of(asked.scope),
                url=request.url,
                events=request.events,
                description=request.description,
                by=actor_of(asked.scope),
            )
        except TooManyWebhooksError as error:
            message = f"a tenant may have {error.most} webhooks; delete one, or have one get more events"
            raise ApiError(409, message, "too_many_webhooks") from None
        log.info("webhook_created", webhook=webhook.id, tenant=asked_by(asked.scope))
        return await shown(webhook, 201, secret=secret)

    @router.get(
        "/v1/webhooks",
        operation_id="listWebhooks",
        summary="List webhooks",
        responses=answers(WebhookList, 400, 503),
    )
    async def list_webhooks(
        asked: Request,
        tenant: Annotated[
            TenantName | None, Query(description="Only those of this tenant, for the scope `admin`.")
        ] = None,
        after: Annotated[
            str | None, Query(max_length=64, description="The last webhook's id of the previous page.")
        ] = None,
        limit: Limit = 20,
    ) -> Response:
        """Newest first."""
        if after is not None and not is_webhook_id(after):
            raise not_of_list(after, "a webhook")
        owner = tenant if tenant is not None and identity_of(asked.scope).admin else owner_of(asked.scope)
        found, more = await webhooks.page(after=after, limit=limit, owner=owner)
        now_ms = await store.now_ms()
        return json_response(list_view([webhook_view(one, now_ms) for one in found], more=more))

    @router.get(
        "/v1/webhooks/{webhook_id}",
        operation_id="getWebhook",
        summary="Get a webhook",
        responses=answers(WebhookObject, 404, 503),
    )
    async def get_webhook(webhook_id: str, asked: Request) -> Response:
        """Without its secret."""
        return await shown(await found_webhook(services, webhook_id, owner_of(asked.scope)))

    @router.patch(
        "/v1/webhooks/{webhook_id}",
        operation_id="updateWebhook",
        summary="Change a webhook",
        responses=answers(WebhookObject, 400, 403, 404, 413, 503),
        openapi_extra=body_docs(WebhookChange, {"state": "active"}),
    )
    async def change_webhook(
        webhook_id: str, asked: Request, request: Annotated[WebhookChange, control_body(WebhookChange)]
    ) -> Response:
        """What the body leaves out stays. One that is enabled again gets what happened meanwhile."""
        owner = owner_of(asked.scope)
        await found_webhook(services, webhook_id, owner)
        if request.url is not None:
            await check_webhook_url(services, request.url, "url")
        await webhooks.update(webhook_id, request.changes(), owner=owner, by=actor_of(asked.scope))
        log.info("webhook_changed", webhook=webhook_id, tenant=asked_by(asked.scope))
        return await shown(await found_webhook(services, webhook_id, owner))

    @router.delete(
        "/v1/webhooks/{webhook_id}",
        operation_id="deleteWebhook",
        summary="Delete a webhook",
        responses=answers(WebhookDeleted, 404, 503),
    )
    async def delete_webhook(webhook_id: str, asked: Request) -> Response:
        """What was not delivered goes with it."""
        owner = owner_of(asked.scope)
        await found_webhook(services, webhook_id, owner)
        await webhooks.delete(webhook_id, owner=owner, by=actor_of(asked.scope))
        log.info("webhook_deleted", webhook=webhook_id, tenant=asked_by(asked.scope))
        return json_response({"id": webhook_id, "object": "webhook", "deleted": True})
