"""Tenants as data: list, look, set and reset. A change is effective with the next call, in every process within a second."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Query, Request, Response

from api.access.identity import actor_of
from api.admin.tenant_schema import (
    TenantFields,
    TenantSettingsList,
    TenantSettingsObject,
    tenant_view,
)
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.openapi import answers, body_docs
from api.http.pages import list_view
from api.middleware.trace import asked_by
from api.services import Services
from jobs.names import NAME

log = structlog.get_logger(__name__)

_EXAMPLE = {"weight": 3, "requests_per_minute": 600, "tokens_per_day": 2_000_000}
Name = Annotated[str, Path(pattern=NAME, description="The tenant's name.")]
Body = Annotated[TenantFields, control_body(TenantFields)]


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    tenants = services.tenant_store

    async def show(name: str) -> Response:
        services.known_tenants.forget()  # this process knows at once
        return json_response(tenant_view(await tenants.get(name), await tenants.used(name)))

    @router.get(
        "/v1/admin/tenants",
        operation_id="listTenants",
        summary="List tenants",
        responses=answers(TenantSettingsList, 400, 503),
    )
    async def list_tenants(
        after: Annotated[
            str | None, Query(pattern=NAME, description="The last tenant of the previous page.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most tenants in a page.")] = 100,
    ) -> Response:
        """Tenants for which something is set, by name. Every other tenant has the defaults."""
        found, more = await tenants.page(after, limit)
        return json_response(list_view([tenant_view(one) for one in found], more=more))

    @router.get(
        "/v1/admin/tenants/{name}",
        operation_id="getTenant",
        summary="Get a tenant",
        responses=answers(TenantSettingsObject, 400, 503),
    )
    async def get_tenant(name: Name) -> Response:
        """What is set for it, and what it has used of its quotas. One for which nothing is set has the defaults."""
        return json_response(tenant_view(await tenants.get(name), await tenants.used(name)))

    @router.put(
        "/v1/admin/tenants/{name}",
        operation_id="setTenant",
        summary="Set a tenant",
        responses=answers(TenantSettingsObject, 400, 413, 503),
        openapi_extra=body_docs(TenantFields, _EXAMPLE),
    )
    async def put_tenant(name: Name, body: Body, request: Request) -> Response:
        """What the body leaves out gets its default."""
        changed = await tenants.put(body.tenant(name), actor_of(request.scope))
        log.info("tenant_set", of=name, changed=changed, tenant=asked_by(request.scope))
        return await show(name)

    @router.patch(
        "/v1/admin/tenants/{name}",
        operation_id="updateTenant",
        summary="Change a tenant",
        responses=answers(TenantSettingsObject, 400, 413, 503),
        openapi_extra=body_docs(TenantFields, _EXAMPLE),
    )
    async def change_tenant(name: Name, body: Body, request: Request) -> Response:
        """What the body leaves out stays. null sets the default."""
        changed = await tenants.change(name, body.changes(), actor_of(request.scope))
        log.info("tenant_set", of=name, changed=changed, tenant=asked_by(request.scope))
        return await show(name)

    @router.delete(
        "/v1/admin/tenants/{name}",
        operation_id="resetTenant",
        summary="Reset a tenant",
        responses=answers(TenantSettingsObject, 400, 503),
    )
    async def reset_tenant(name: Name, request: Request) -> Response:
        """It has the defaults again. Its jobs, files and batches stay."""
        changed = await tenants.reset(name, actor_of(request.scope))
        log.info("tenant_reset", of=name, changed=changed, tenant=asked_by(request.scope))
        return await show(name)
