"""From what a request names to the model and the pool that get it, and to the body that the engine gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from api.admission.context_length import check_context
from api.admission.models import check_endpoint, model_not_found, no_such_device
from api.http.body import parse_raw
from api.http.errors import RETRY_WORKER_S, SERVER, ApiError
from api.services import Services
from broker.catalogue import Model
from jobs.placement import Placement


async def route(
    services: Services,
    name: str,
    endpoint: str,
    request: Mapping[str, Any],
    body: bytes,
    *,
    live: bool = False,
    placement: Placement | None = None,
) -> tuple[Model, bytes]:
    """Choose the pool for a request, of those that serve its model and can do it.

    Args:
        services: the process's services.
        name: the model's, or an alias.
        endpoint: the OpenAI endpoint.
        request: the parsed body.
        body: as it came.
        live: somebody waits: a worker must be alive.
        placement: what is asked of the device.

    Returns:
        The model in the chosen pool, and the body for its engine: as it came, but with the model's own name where it
        named another or none.

    Raises:
        ApiError: 404 ``model_not_found``; 400 ``no_such_device``, ``unsupported`` or ``context_length_exceeded`` where
            no pool can do it; 503 ``no_worker``.
        StoreUnavailableError: nothing is known of it, and Redis is away.
    """
    catalogue = services.catalogue
    if await catalogue.find(name, live=live, placement=placement) is None:
        there = catalogue.devices(name)
        if catalogue.empty:
            message = "no worker has registered yet; the first may still be loading its model"
            raise ApiError(503, message, "no_worker", type_=SERVER, retry_after_s=RETRY_WORKER_S)
        if placement is None or not there:
            raise model_not_found(name, services.settings.default_model)
        raise no_such_device(name, placement, there)
    refused: ApiError | None = None
    for model in catalogue.ranked(name, placement):
        named = _under_its_name(body, request, model)
        try:
            check_endpoint(model, endpoint)
            await check_context(services, model, endpoint, request, named)
        except ApiError as error:  # pools may differ in that
            refused = refused or error
            continue
        if live and not catalogue.live(model):
            message = f"no worker for {name!r} is alive; submit to /v1/jobs to have it run when one is"
            raise ApiError(503, message, "no_worker", type_=SERVER, retry_after_s=RETRY_WORKER_S)
        catalogue.book(model)
        return model, named
    assert refused is not None  # noqa: S101 - there was a model, and it was refused
    raise refused


def _under_its_name(body: bytes, request: Mapping[str, Any], model: Model) -> bytes:
    if request.get("model") == model.name:
        return body
    members = parse_raw(body) | {"model": msgspec.Raw(msgspec.json.encode(model.name))}
    return msgspec.json.encode(members)
