"""API keys: make, list, rotate and revoke them. A change is known to every api process within two seconds."""

from __future__ import annotations

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Query, Request, Response

from api.access.identity import actor_of
from api.admin.key_schema import KeyList, KeyObject, KeyRequest, NewKeyObject, RotateRequest, key_view
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.errors import ApiError
from api.http.openapi import answers, body_docs
from api.http.pages import Limit, list_view, not_of_list
from api.services import Services
from broker.access import KeyRecord
from broker.settings import TenantName
from jobs.access import ApiKey, is_key_id

log = structlog.get_logger(__name__)

_SECRET = {"cache-control": "no-store"}
_EXAMPLE = {"tenant": "alice", "scopes": ["jobs:read", "jobs:write"], "name": "nightly run"}


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    access, store = services.access, services.store

    async def shown(record: KeyRecord, status: int = 200, **more: Any) -> Response:
        view = key_view(record, await store.now_ms()) | more
        return json_response(view, status, _SECRET if more else None)

    @router.post(
        "/v1/admin/keys",
        operation_id="createKey",
        summary="Create an API key",
        status_code=201,
        responses=answers(NewKeyObject, 400, 409, 413, 503, status=201),
        openapi_extra=body_docs(KeyRequest, _EXAMPLE),
    )
    async def create_key(
        asked: Request, request: Annotated[KeyRequest, control_body(KeyRequest)]
    ) -> Response:
        """The answer has the key. It is shown this once: Redis holds a digest of it."""
        key = ApiKey.new()
        record = await access.create(
            key,
            _pepper(services),
            tenant=request.tenant,
            scopes=request.scopes,
            name=request.name,
            models=request.models,
            expires_in_ms=None if request.expires_in_s is None else request.expires_in_s * 1000,
            by=actor_of(asked.scope),
        )
        log.info("key_created", key=key.id, of=record.tenant, by=actor_of(asked.scope).key)
        return await shown(record, 201, key=str(key))

    @router.get(
        "/v1/admin/keys",
        operation_id="listKeys",
        summary="List API keys",
        responses=answers(KeyList, 400, 503),
    )
    async def list_keys(
        tenant: Annotated[TenantName | None, Query(description="Only keys of this tenant.")] = None,
        after: Annotated[str | None, Query(description="The last key's id of the previous page.")] = None,
        limit: Limit = 20,
    ) -> Response:
        """Newest first, revoked ones too."""
        try:
            if after is not None and not is_key_id(after):
                raise LookupError(after)
            found, more = await access.page(tenant=tenant, after=after, limit=limit)
        except LookupError:
            raise not_of_list(after or "", "a key") from None
        now_ms = await store.now_ms()
        return json_response(list_view([key_view(record, now_ms) for record in found], more=more))

    @router.get(
        "/v1/admin/keys/{key_id}",
        operation_id="getKey",
        summary="Get an API key",
        responses=answers(KeyObject, 404, 503),
    )
    async def get_key(key_id: str) -> Response:
        """Without its secret."""
        return await shown(await found_key(services, key_id))

    @router.post(
        "/v1/admin/keys/{key_id}/rotate",
        operation_id="rotateKey",
        summary="Rotate an API key",
        responses=answers(NewKeyObject, 400, 404, 409, 413, 503),
        openapi_extra=body_docs(RotateRequest, {"overlap_s": 3600}, required=False),
    )
    async def rotate_key(
        key_id: str,
        asked: Request,
        request: Annotated[RotateRequest | None, control_body(RotateRequest, optional=True)],
    ) -> Response:
        """Give it a new secret, which the answer has. The one until now stays right for a while; an older one does not."""
        key = ApiKey.new((await found_key(services, key_id)).id)
        overlap_s = (request or RotateRequest.model_validate({})).overlap_s
        record = await access.rotate(
            key, _pepper(services), overlap_ms=overlap_s * 1000, by=actor_of(asked.scope)
        )
        log.info(
            "key_rotated", key=key.id, of=record.tenant, overlap_s=overlap_s, by=actor_of(asked.scope).key
        )
        return await shown(record, key=str(key))

    @router.delete(
        "/v1/admin/keys/{key_id}",
        operation_id="revokeKey",
        summary="Revoke an API key",
        responses=answers(KeyObject, 404, 503),
    )
    async def revoke_key(key_id: str, asked: Request) -> Response:
        """For good. It stays in the list."""
        record = await found_key(services, key_id)
        await access.revoke(key_id, actor_of(asked.scope))
        log.info("key_revoked", key=key_id, of=record.tenant, by=actor_of(asked.scope).key)
        return await shown(await found_key(services, key_id))


async def found_key(services: Services, key_id: str) -> KeyRecord:
    """Read a key's record.

    Raises:
        ApiError: 404, there is no such key.
    """
    record = await services.access.get(key_id) if is_key_id(key_id) else None
    if record is None:
        message = f"there is no API key {key_id[:64]!r}; GET /v1/admin/keys lists them"
        raise ApiError(404, message, "key_not_found", param="key_id")
    return record


def _pepper(services: Services) -> bytes:
    """Return the pepper. Raises ApiError: 409, there is none."""
    pepper = services.settings.pepper()
    if pepper is not None:
        return pepper
    message = (
        "this server has no pepper, so it makes no API keys; make one with `openssl rand -hex 32`, set it as key_pepper, "
        "and restart the api; `penstock up --require-keys` does so"
    )
    raise ApiError(409, message, "no_pepper")
