"""Secrets that sign what webhooks get: those of endpoints, and the one of a tenant's single jobs and batches."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Request, Response

from api.access.identity import actor_of, owner_of, tenant_of
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.errors import invalid
from api.http.openapi import answers, body_docs
from api.middleware.trace import asked_by
from api.services import Services
from api.webhooks.schema import NewWebhookObject, SecretRotation, WebhookSecretObject
from api.webhooks.view import NO_STORE, found_webhook, webhook_view
from jobs.webhooks import TENANT_PREFIX

log = structlog.get_logger(__name__)


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    webhooks = services.webhooks

    @router.get(
        "/v1/webhooks/secret",
        operation_id="getWebhookSecret",
        summary="Get the secret of single jobs",
        responses=answers(WebhookSecretObject, 503),
    )
    async def get_secret(asked: Request) -> Response:
        """It signs what is sent to the `webhook_url` of a job or a batch. Your tenant has one for all."""
        secret = await webhooks.tenant_secret(tenant_of(asked.scope))
        return json_response({"object": "webhook.secret", "secret": secret}, 200, NO_STORE)

    @router.post(
        "/v1/webhooks/secret/rotate",
        operation_id="rotateWebhookSecret",
        summary="Rotate the secret of single jobs",
        responses=answers(WebhookSecretObject, 400, 413, 503),
        openapi_extra=body_docs(SecretRotation, {"overlap_s": 3600}, required=False),
    )
    async def rotate_secret(
        asked: Request,
        request: Annotated[SecretRotation | None, control_body(SecretRotation, optional=True)],
    ) -> Response:
        """Make a new one. The one until now signs, too, for a while: each message has both signatures."""
        tenant = tenant_of(asked.scope)
        await webhooks.tenant_secret(tenant)
        secret = await webhooks.rotate(
            TENANT_PREFIX + tenant,
            overlap_ms=_overlap_ms(request),
            owner=tenant,
            by=actor_of(asked.scope),
        )
        log.info("webhook_rotated", webhook=TENANT_PREFIX + tenant, tenant=asked_by(asked.scope))
        return json_response({"object": "webhook.secret", "secret": secret}, 200, NO_STORE)

    @router.post(
        "/v1/webhooks/{webhook_id}/rotate",
        operation_id="rotateWebhook",
        summary="Rotate a webhook's secret",
        responses=answers(NewWebhookObject, 400, 404, 413, 503),
        openapi_extra=body_docs(SecretRotation, {"overlap_s": 3600}, required=False),
    )
    async def rotate_webhook(
        webhook_id: str,
        asked: Request,
        request: Annotated[SecretRotation | None, control_body(SecretRotation, optional=True)],
    ) -> Response:
        """Make a new secret. The one until now signs, too, for a while: each message has both signatures."""
        owner = owner_of(asked.scope)
        await found_webhook(services, webhook_id, owner)
        secret = await webhooks.rotate(
            webhook_id, overlap_ms=_overlap_ms(request), owner=owner, by=actor_of(asked.scope)
        )
        if secret is None:
            message = f"{webhook_id} has no secret of its own; rotate with POST /v1/webhooks/secret/rotate"
            raise invalid(message, "webhook_id")
        log.info("webhook_rotated", webhook=webhook_id, tenant=asked_by(asked.scope))
        view = webhook_view(await found_webhook(services, webhook_id, owner), await services.store.now_ms())
        return json_response(view | {"secret": secret}, 200, NO_STORE)


def _overlap_ms(request: SecretRotation | None) -> int:
    return 1000 * (request or SecretRotation.model_validate({})).overlap_s
