"""From a request that declares an adapter to its object in storage: its files are fetched, checked and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from api.admin.adapter_schema import AdapterRequest
from api.http.errors import ApiError, file_not_found, invalid
from api.services import Services
from jobs.access import Actor
from jobs.adapter_files import BadAdapterError, check_fit
from jobs.adapters import wrong_name
from jobs.ids import is_file_id
from storage import MissingObjectError
from storage.adapter_hub import HUB, from_hub
from storage.adapters import AdapterFiles, check_files, keep, opened

_REFUSED = {
    "full": "the pool {pool!r} has its {most} adapters (setting adapters_per_pool); remove one first",
    "model": "{name!r} is a model of the pool {pool!r}; choose another name",
    "alias": "{name!r} is an alias of a model; choose another name",
    "other": "the pool {pool!r} has another adapter {name!r}; choose another name, or remove that one first",
}


async def take_in(services: Services, request: AdapterRequest, owner: str | None, by: Actor) -> str:
    """Fetch, check, keep and declare an adapter.

    Args:
        owner: the tenant whose files may be the source; None: everybody's.
        by: who asked.

    Returns:
        The pool that has it: the version that serves of the one that was named.

    Raises:
        ApiError: 400, it is no adapter, does not fit, or its name is taken; 404, there is no such pool or file.
        StorageError: storage failed.
    """
    settings = services.settings
    if why := wrong_name(request.name):
        raise invalid(f"name: {why}", "name")
    pool = await serving_pool(services, request.pool)
    async with services.adapter_intake:  # each takes disk, and a connection to storage or hub
        try:
            async with _files(services, request, owner) as files:
                facts = await asyncio.to_thread(check_files, files, settings.adapter_max_bytes)
                model = services.catalogue.of_pool(pool)
                names = (
                    ()
                    if model is None or request.any_base
                    else (model.name, str(model.card.get("root") or model.name))
                )
                check_fit(facts, None if model is None else model.capabilities.adapter_rank, names)
                answer = await services.adapters.declare(
                    request.name,
                    pool,
                    request.source,
                    facts,
                    lambda key: keep(files, services.storage, key),
                    most=settings.adapters_per_pool,
                    tenant=request.tenant,
                    by=by,
                )
        except BadAdapterError as error:
            raise invalid(f"source: {error}", "source") from error
    if refused := _REFUSED.get(answer.kind):
        message = refused.format(pool=answer.pool, name=request.name, most=settings.adapters_per_pool)
        raise invalid(message, "pool" if answer.kind == "full" else "name")
    if request.pinned:
        await services.adapters.pin(pool, request.name, by=by)
    return pool


async def serving_pool(services: Services, named: str) -> str:
    """Return the version of a pool that serves; see :meth:`broker.adapters.Adapters.home`.

    Raises:
        ApiError: 404 ``pool_not_found``: no worker or job ever had it.
    """
    pool = await services.adapters.home(named)
    await services.catalogue.refresh()
    if pool not in services.catalogue.pools:
        message = f"the pool {named!r} does not exist; the pools are: {', '.join(services.catalogue.pools)}"
        raise ApiError(404, message, "pool_not_found", param="pool")
    return pool


@asynccontextmanager
async def _files(
    services: Services, request: AdapterRequest, owner: str | None
) -> AsyncIterator[AdapterFiles]:
    most = services.settings.adapter_max_bytes
    if request.source.startswith(HUB):
        if request.config is not None:
            raise invalid("config: an adapter on the hub has its own", "config")
        yield await asyncio.to_thread(from_hub, request.source, most)
        return
    if not is_file_id(request.source):
        raise invalid(
            f"source: {request.source[:100]!r} is neither the id of an uploaded file nor hf:org/name; "
            "`penstock adapters add` uploads a folder",
            "source",
        )
    file = await services.files.get(request.source, owner=owner)
    if file is None:
        raise file_not_found(request.source)
    if file.size > most + most // 8:  # a tar is little larger than what is in it
        raise BadAdapterError(
            f"it has {file.size} bytes, more than the {most} of the setting adapter_max_bytes"
        )
    config = None if request.config is None else msgspec.json.encode(request.config)
    try:
        async with opened(services.storage, file.key, config, most) as files:
            yield files
    except MissingObjectError as error:
        raise BadAdapterError(f"the file {file.id} was deleted") from error
