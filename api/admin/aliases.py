"""Aliases of models as data: list, set and remove."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Path, Request, Response

from api.access.identity import actor_of
from api.admin.rollout_schema import AliasList, AliasObject, AliasRequest
from api.http.asgi import json_response
from api.http.body import control_body
from api.http.errors import ApiError
from api.http.openapi import answers, body_docs
from api.middleware.trace import asked_by
from api.services import Services

log = structlog.get_logger(__name__)

Alias = Annotated[str, Path(min_length=1, max_length=256, description="The alias; it may contain slashes.")]


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    rollouts = services.rollouts

    @router.get(
        "/v1/admin/aliases",
        operation_id="listAliases",
        summary="List aliases",
        responses=answers(AliasList, 503),
    )
    async def list_aliases() -> Response:
        """The aliases that were set here, by name. Those of workers' settings are in `GET /v1/models` too."""
        known = await rollouts.aliases()
        return json_response({"object": "list", "data": [_alias(*one) for one in sorted(known.items())]})

    @router.put(
        "/v1/admin/aliases/{alias:path}",
        operation_id="setAlias",
        summary="Set an alias",
        responses=answers(AliasObject, 400, 404, 409, 413, 503),
        openapi_extra=body_docs(AliasRequest, {"model": "chat"}),
    )
    async def set_alias(
        alias: Alias, body: Annotated[AliasRequest, control_body(AliasRequest)], request: Request
    ) -> Response:
        """A further name of a model, in all processes within two seconds. It comes before a worker's alias of that name."""
        catalogue = services.catalogue
        model = await catalogue.find(body.model)
        if model is None:
            raise ApiError(
                404,
                f"the model {body.model[:256]!r} does not exist; GET /v1/models lists the models",
                "model_not_found",
                param="model",
            )
        answer = await rollouts.set_alias(alias, model.name, actor_of(request.scope))
        if answer == "model":
            message = f"{alias[:256]!r} is the name of a model, which no alias can take; choose another name"
            raise ApiError(409, message, "rollout_refused", param="alias")
        changed = answer == "changed"
        log.info("alias_set", alias=alias, model=model.name, changed=changed, tenant=asked_by(request.scope))
        await catalogue.refresh()
        return json_response(_alias(alias, model.name))

    @router.delete(
        "/v1/admin/aliases/{alias:path}",
        operation_id="deleteAlias",
        summary="Remove an alias",
        responses=answers(AliasObject, 404, 503),
    )
    async def remove_alias(alias: Alias, request: Request) -> Response:
        """The name means what workers' settings say again; or nothing."""
        model = (await rollouts.aliases()).get(alias, "")
        if not await rollouts.drop_alias(alias, actor_of(request.scope)):
            message = f"no alias {alias[:256]!r} was set; GET /v1/admin/aliases lists them"
            raise ApiError(404, message, "alias_not_found", param="alias")
        log.info("alias_removed", alias=alias, tenant=asked_by(request.scope))
        await services.catalogue.refresh()
        return json_response(_alias(alias, model))


def _alias(alias: str, model: str) -> dict[str, str]:
    return {"id": alias, "object": "alias", "model": model}
