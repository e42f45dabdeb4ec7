"""From a model's name to the pool that runs the request, and to the body that its engine gets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from api.admission.abilities import check_abilities, check_kind
from api.admission.context_length import check_context
from api.admission.file_inputs import check_files
from api.admission.media import Brought, check_media
from api.admission.media_rights import check_taken, usual_tokens
from api.http.bodies import Body
from api.http.body import parse_raw
from api.http.errors import ApiError, no_worker
from api.services import Services
from broker.catalogue import MIN_GAP_S
from broker.models import Model
from jobs.access import DEFAULT_TENANT
from jobs.lanes import Lane
from jobs.placement import Device, Placement


async def route(
    services: Services,
    name: str,
    endpoint: str,
    request: Mapping[str, Any],
    body: Body,
    *,
    lane: Lane,
    live: bool = False,
    placement: Placement | None = None,
    tenant: str = DEFAULT_TENANT,
    models: Collection[str] | None = None,
) -> tuple[Model, bytes, int | None]:
    """Choose a pool that serves the model and can run the request.

    The arguments are those of :func:`api.admission.admit.admit`; ``name`` is the model's, or an alias.

    Returns:
        The model in the chosen pool; the body for its engine: as it came, or with the model's own name instead of
        an alias or of none; and the prompt's tokens, if they were counted, or the request brings more than text.

    Raises:
        ApiError: 404 ``model_not_found``, also for a LoRA adapter that no worker of its pools can load; 400
            ``no_such_device``, ``unsupported``, ``context_length_exceeded`` or a code of :mod:`api.admission.media` if no
            pool can run it; those of :func:`api.admission.file_inputs.check_files`; 503 ``no_worker``.
        StoreUnavailableError: the model is not known yet, and Redis is away.
    """
    catalogue = services.catalogue
    if await catalogue.find(name, live=live, placement=placement) is None:
        raise _not_served(services, name, placement)
    await check_model(services, tenant, name, models)
    named: dict[str, bytes] = {}  # by the model's own name: an alias may lead to several
    brought: Brought | None = None
    refused: ApiError | None = None
    for model in catalogue.ranked(name, placement):
        if not model.open_to(tenant):
            continue
        try:
            await _check_able(services, model, endpoint, request, body)
        except ApiError as error:  # another pool may accept it
            refused = refused or error
            continue
        if brought is None:  # no pool takes what is refused here
            brought = await _brought(services, endpoint, request, body, tenant)
        try:
            check_taken(model, brought)
            if model.name not in named:
                named[model.name] = await body.run(_under_its_name, body.data, request, model)
            own = named[model.name]
            counted = await check_context(services, model, endpoint, request, body, own, brought, lane)
        except ApiError as error:
            refused = refused or error
            continue
        if live and not catalogue.open(model):
            raise no_worker(
                f"no worker for the model {name!r} is alive; retry later, or submit to /v1/jobs, where the job waits for one"
            )
        catalogue.book(model)
        return model, own, usual_tokens(model, brought, len(own)) if counted is None else counted
    raise refused or model_not_found(name, services.settings.default_model)


async def _check_able(
    services: Services, model: Model, endpoint: str, request: Mapping[str, Any], body: Body
) -> None:
    check_adapter(model)
    await body.run(check_abilities, model, endpoint, request)
    if poisoned := services.catalogue.poisoned(model):
        await body.run(check_kind, model, endpoint, request, poisoned)


async def _brought(
    services: Services, endpoint: str, request: Mapping[str, Any], body: Body, tenant: str
) -> Brought:
    """Check what a request brings beside text, once for all pools."""
    brought = await body.run(check_media, services.settings, request)
    if brought.files:
        await check_files(services, endpoint, request, tenant, uploaded=False)
    return brought


async def check_model(
    services: Services, tenant: str, name: str, models: Collection[str] | None = None
) -> None:
    """Refuse a model that the caller may not use, as one that does not exist. ``models``: those of its key.

    Raises:
        ApiError: 404 ``model_not_found``.
        StoreUnavailableError: the tenant is not known yet, and Redis is away.
    """
    if await _is_open(services, tenant, name, models):
        return
    # A right may name an alias that a worker has registered just now.
    await services.catalogue.refresh(MIN_GAP_S)
    if not await _is_open(services, tenant, name, models):
        raise model_not_found(name, services.settings.default_model)


async def _is_open(services: Services, tenant: str, name: str, models: Collection[str] | None) -> bool:
    allowed, catalogue = await allowed_models(services, tenant, models), services.catalogue
    named = allowed is None or catalogue.real_name(name) in allowed
    return named and catalogue.open_to(name, tenant)


async def allowed_models(
    services: Services, tenant: str, models: Collection[str] | None
) -> frozenset[str] | None:
    """Return the names, without aliases, of the models that both a tenant and a key may use; None: every model."""
    rights = ((await services.known_tenants.get(tenant)).models, models)
    named = [frozenset(map(services.catalogue.real_name, one)) for one in rights if one is not None]
    return frozenset.intersection(*named) if named else None


def check_adapter(model: Model) -> None:
    """Refuse a declared LoRA adapter that no live worker of its pool can load. One that no worker has yet is accepted.

    Raises:
        ApiError: 404 ``model_not_found``, with the reason.
    """
    if model.broken is not None:
        message = (
            f"the model {model.name!r} is a LoRA adapter that no worker of the pool {model.pool!r} can load: "
            f"{model.broken}. An administrator can replace it with `penstock adapters add`, or remove it"
        )
        raise ApiError(404, message, "model_not_found", param="model")


def model_not_found(name: str, default: str | None = None) -> ApiError:
    """Make the 404 for a model that no worker ever served here. ``default``: the setting ``default_model``."""
    which = "the default model (setting default_model)" if name == default else "the model"
    message = f"{which} {name!r} does not exist; GET /v1/models lists the models"
    return ApiError(404, message, "model_not_found", param="model")


def _not_served(services: Services, name: str, placement: Placement | None) -> ApiError:
    """Make the error for a name that the catalogue does not find."""
    devices = services.catalogue.devices(name)
    if services.catalogue.empty:
        return no_worker("no worker has registered yet; the first one may still be loading its model")
    if placement is None or not devices:
        return model_not_found(name, services.settings.default_model)
    return _no_such_device(name, placement, devices)


def _no_such_device(name: str, placement: Placement, devices: Mapping[str, Iterable[Device]]) -> ApiError:
    pools = "; ".join(f"{pool}: {' and '.join(map(str, one))}" for pool, one in sorted(devices.items()))
    message = f"no pool that serves the model {name!r} has {placement}; its pools have {pools}"
    return ApiError(400, message, "no_such_device", param="placement")


def _under_its_name(body: bytes, request: Mapping[str, Any], model: Model) -> bytes:
    if request.get("model") == model.name:
        return body
    members = parse_raw(body) | {"model": msgspec.Raw(msgspec.json.encode(model.name))}
    return msgspec.json.encode(members)
