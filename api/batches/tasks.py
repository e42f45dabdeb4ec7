"""Beyond OpenAI's Batches API: verify and retry, which read whole files. A coordinator performs them; the api waits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response

from api.access.identity import actor_of, owner_of
from api.admission.rights import check_lane
from api.batches.create import refuse_limited_key
from api.batches.schema import BatchObject, Verified
from api.batches.view import batch_not_found, batch_view, found_batch
from api.http.asgi import json_response
from api.http.errors import SERVER, ApiError
from api.http.hangup import until_hangup
from api.http.openapi import answers
from api.middleware.trace import asked_by, place_of
from api.services import Services
from broker.db.errors import BatchUnfinishedError, FileGoneError, NoCoordinatorError, OverQuotaError
from broker.tasks import Answer, TaskKind
from jobs.batch_model import Batch
from jobs.ids import BATCH_PREFIX, FILE_PREFIX
from storage import MissingObjectError, StorageError, StorageFullError, StorageUnavailableError

log = structlog.get_logger(__name__)

LOOK_S = 2.0
"""Longest time between two looks at a task whose answer is awaited: a message of it may be lost."""

_STORAGE_ERRORS = {
    kind.reason: kind
    for kind in (StorageError, StorageFullError, StorageUnavailableError, MissingObjectError)
}


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""

    @router.get(
        "/v1/batches/{batch_id}/verify",
        operation_id="verifyBatch",
        summary="Verify a batch",
        responses=answers(Verified, 404, 409, 410, 503),
    )
    async def verify_batch(batch_id: str, request: Request) -> Response:
        """Read input, output and error file: does every row have exactly one line?"""
        batch = await _ended_batch(services, batch_id, owner_of(request.scope))
        return json_response(await _performed(services, request, TaskKind.VERIFY, batch, {}))

    @router.post(
        "/v1/batches/{batch_id}/retry",
        operation_id="retryBatch",
        summary="Retry a batch's failed rows",
        responses=answers(BatchObject, 404, 409, 410, 429, 503, 507),
    )
    async def retry(batch_id: str, request: Request) -> Response:
        """A new batch of the rows in the error file. A batch is retried once: a second call finds the same new batch."""
        refuse_limited_key(request.scope)
        batch = await _ended_batch(services, batch_id, owner_of(request.scope))
        if batch.error_file_id is None:
            raise ApiError(409, f"{batch.id} has no failed rows", "nothing_to_retry", param="batch_id")
        if batch.retried_as is not None:
            child = await services.batches.get(batch.retried_as, owner=owner_of(request.scope))
            if child is not None:
                return json_response(batch_view(child))
        await check_lane(services, batch.tenant, batch.priority)
        args = {
            "file_id": services.new_id(FILE_PREFIX),
            "batch_id": services.new_id(BATCH_PREFIX),
            "keep_ms": int(services.settings.file_retention_s * 1000),
            "trace": place_of(request.scope),
            "by": actor_of(request.scope).encode(),
        }
        made = await _performed(services, request, TaskKind.RETRY, batch, args)
        if made["id"] == args["batch_id"]:
            log.info("batch_retried", batch=batch.id, retried_as=made["id"], tenant=asked_by(request.scope))
        return json_response(batch_view(await found_batch(services, made["id"], owner_of(request.scope))))


async def _ended_batch(services: Services, batch_id: str, owner: str | None) -> Batch:
    batch = await found_batch(services, batch_id, owner)
    if not batch.status.terminal:
        raise BatchUnfinishedError(batch.id)
    return batch


async def _performed(
    services: Services, request: Request, kind: TaskKind, batch: Batch, args: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Have a coordinator perform a task, and return its result. The task continues when the caller hangs up.

    Raises:
        ClientGoneError: the caller hung up.
        NoCoordinatorError: none is alive, or the last one died; asked again, the task continues where there is one.
        FileGoneError: a file of the batch was deleted or has expired.
        StorageError: storage fails.
        OverQuotaError: the tenant has as many open batches as it may.
        ApiError: 404, the batch is gone; 500, the task failed for a fault of Penstock's.
    """
    owner = owner_of(request.scope)
    with services.hub.inbox(services.tasks.topic(kind, batch.id)) as inbox:
        run = await _asked(services, kind, batch, args, owner)
        with until_hangup(request.scope):
            while True:
                events: list[tuple[str, str]] = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        events = await inbox.take()
                found = [Answer.decode(payload) for at, payload in events if int(at) >= run]
                try:
                    told = found[0] if found else await services.tasks.answer(kind, batch.id, run)
                except LookupError:  # its answer was kept for a minute, in which Redis could not be asked
                    await found_batch(services, batch.id, owner)
                    run = await _asked(services, kind, batch, args, owner)
                    continue
                if told is not None:
                    return _result(batch, told)
                if not await services.coordinators.alive():
                    raise NoCoordinatorError(
                        f"the {kind} of {batch.id} waits: no coordinator is running any more"
                    )


async def _asked(
    services: Services, kind: TaskKind, batch: Batch, args: Mapping[str, Any], owner: str | None
) -> int:
    try:
        return await services.tasks.ask(kind, batch.id, args, services.process, owner=owner)
    except LookupError:
        raise batch_not_found(batch.id) from None


def _result(batch: Batch, told: Answer) -> Mapping[str, Any]:
    """Return a task's result, or raise the error that its coordinator met."""
    if told.error is None:
        return told.result
    if told.error == "file_gone":
        raise FileGoneError(told.message)
    if told.error == "batch_not_found":
        raise batch_not_found(batch.id)
    if told.error == "insufficient_quota":
        raise OverQuotaError("batches", int(told.message), 1)
    if told.error in _STORAGE_ERRORS:
        raise _STORAGE_ERRORS[told.error](told.message)
    raise ApiError(500, told.message, "internal_error", type_=SERVER)
