"""OpenAI's model list."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from api.access.identity import identity_of
from api.admission.routing import allowed_models, check_adapter, check_model, model_not_found
from api.http.asgi import json_response
from api.http.errors import ApiError
from api.http.openapi import answers
from api.openai.answer_schema import ModelList, ModelObject
from api.services import Services
from broker.models import Model


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.get("/v1/models", operation_id="listModels", summary="List models", responses=answers(ModelList))
    async def list_models(request: Request) -> Response:
        """The models that take calls, the default first, and their aliases, with `root` naming the model. A model without a
        live worker, whose pool scales from zero, has `penstock.state: "asleep"`.

        If there is none: every model that was ever served here. A caller sees those that its tenant and key may use.
        A LoRA adapter is listed as soon as one worker has it, with `parent` naming its base model.
        """
        await services.catalogue.refresh(max_age_s=services.settings.catalogue_refresh_s)
        caller = identity_of(request.scope)
        allowed = await allowed_models(services, caller.tenant, caller.models)
        cards = [
            _card(name, model, asleep=services.catalogue.asleep(model))
            for name, model in services.catalogue.listed()
            if (allowed is None or model.name in allowed) and model.open_to(caller.tenant)
        ]
        return json_response({"object": "list", "data": cards})

    @router.get(
        "/v1/models/{name:path}",
        operation_id="getModel",
        summary="Get a model",
        responses=answers(ModelObject, 404),
    )
    async def get_model(name: str, request: Request) -> Response:
        """One model, by its name or an alias. A name may contain slashes."""
        model = await services.catalogue.find(name)
        if model is None:
            raise model_not_found(name)
        caller = identity_of(request.scope)
        await check_model(services, caller.tenant, name, caller.models)
        check_adapter(model)
        if not model.usable:
            message = f"the model {name!r} is a LoRA adapter that no worker has loaded yet; a request for it waits for that"
            raise ApiError(404, message, "model_not_found", param="model")
        return json_response(_card(name, model, asleep=services.catalogue.asleep(model)))


def _card(name: str, model: Model, *, asleep: bool) -> dict[str, Any]:
    """Return OpenAI's model object. ``created`` is when it was first served: an engine's own is the time of its start.

    Args:
        asleep: no worker of its pool is alive, and one is started for what waits.
    """
    created = model.created or model.card.get("created") or 0
    card = {"object": "model", "owned_by": "penstock", **model.card, "id": name, "created": created}
    able = {"endpoints": model.endpoints, "capabilities": model.capabilities.said()}
    able |= {"state": "asleep"} if asleep else {}
    if known := {name: value for name, value in able.items() if value}:
        card["penstock"] = {**card.get("penstock", {}), **known}
    return card if name == model.name else card | {"root": model.name}
