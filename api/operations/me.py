"""Who the caller is, and what it may do."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from api.access.identity import identity_of
from api.http.asgi import json_response
from api.http.openapi import answers
from api.operations.queues import LaneName
from api.services import Services
from jobs.access import Scope
from jobs.lanes import Lane
from jobs.tenants import TenantState


class MeObject(BaseModel):
    """The caller."""

    object: Literal["me"]
    tenant: str = Field(description="Whose objects it makes.")
    key: str | None = Field(
        description="Id of its API key, or its subject if it has a token; null: no keys are required."
    )
    scopes: list[Scope] = Field(description="What it may do; `admin` includes all others.")
    models: list[str] | None = Field(
        description="The models it may use, by name or alias; null: those of its tenant."
    )
    lanes: list[LaneName] = Field(
        description="The lanes that its tenant may submit work to; none while it is suspended."
    )
    keys_required: bool = Field(description="Whether calls need an API key.")


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""
    keyed = services.settings.keys_required

    @router.get("/v1/me", operation_id="getMe", summary="Who am I?", responses=answers(MeObject, 503))
    async def me(request: Request) -> Response:
        """The caller's tenant, and what its key or token lets it do."""
        identity = identity_of(request.scope)
        tenant = await services.known_tenants.get(identity.tenant)
        active = tenant.state is TenantState.ACTIVE
        return json_response(
            {
                "object": "me",
                "tenant": identity.tenant,
                "key": identity.key,
                "scopes": [scope for scope in Scope if identity.may(scope)],
                "models": None if identity.models is None else sorted(identity.models),
                "lanes": [lane for lane in Lane if active and tenant.may_use(lane)],
                "keys_required": keyed,
            }
        )
