"""Beyond OpenAI's Batches API: results while it runs, live progress, pause and resume, retry, verify."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from api.batches.create import submit
from api.batches.routes import answer, found_batch
from api.batches.view import (
    BatchObject,
    Verified,
    batch_view,
    counts_view,
    pause_view,
    progress_view,
    usage_view,
)
from api.bulk.context import Bulk
from api.bulk.needed import ERROR, INPUT, needed
from api.bulk.repeat import failed_rows
from api.bulk.results import Position, read_results
from api.bulk.verify import verify
from api.http.errors import ApiError
from api.http.openapi import error_docs
from api.middleware.trace import asked_by, place_of
from api.services import Services
from broker.batches import BatchSpec
from broker.db.errors import BatchUnfinishedError, StoreUnavailableError
from jobs.batch_keys import file_key
from jobs.batch_model import Batch
from jobs.batches import BatchStatus
from jobs.ids import BATCH_PREFIX, FILE_PREFIX

log = structlog.get_logger(__name__)

EVENT_GAP_S = 1.0
_PING_EVERY = 15


class More:
    """The calls."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def _bulk(self) -> Bulk:
        """Return the steps' context on this process's own event loop."""
        services = self._services
        count = services.metrics.count_accepted
        return Bulk.make(services.settings, services.store, services.process, count, services.storage)

    async def set_paused(self, batch_id: str, request: Request, *, paused: bool) -> Response:
        """Pause or resume."""
        services = self._services
        batch = await found_batch(services, batch_id)
        status = await services.batches.pause(batch.id, paused=paused)
        if status not in {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}:
            word = "pause" if paused else "resume"
            message = f"Cannot {word} a batch with status '{batch.status if status is None else status}'."
            raise ApiError(409, message, "batch_finished", param="batch_id")
        log.info(
            "batch_paused" if paused else "batch_resumed", batch=batch.id, tenant=asked_by(request.scope)
        )
        if services.coordinator is not None:
            services.coordinator.poke()
        return answer(batch_view(await found_batch(services, batch_id)))

    async def retry(self, batch_id: str, request: Request) -> Response:
        """Make a batch of the failed rows, once."""
        services = self._services
        batch = await found_batch(services, batch_id)
        if not batch.status.terminal:
            raise BatchUnfinishedError(batch.id)
        if batch.error_file_id is None:
            raise ApiError(409, f"{batch.id} has no failed rows", "nothing_to_retry", param="batch_id")
        if batch.retried_as is not None:
            child = await services.batches.get(batch.retried_as)
            if child is not None:
                return answer(batch_view(child))
        await needed(services.files, batch, INPUT, ERROR)
        file_id = services.new_id(FILE_PREFIX)
        await services.files.announce(file_id, file_key(file_id))
        file = await failed_rows(self._bulk(), batch, file_id)
        keep_ms = int(services.settings.file_retention_s * 1000)
        await services.files.create(file, expires_after_ms=keep_ms)
        spec = BatchSpec(
            id=services.new_id(BATCH_PREFIX),
            input_file_id=file.id,
            input_key=file.key,
            endpoint=batch.endpoint,
            window=batch.window,
            window_ms=batch.window_ms,
            priority=batch.priority,
            tenant=batch.tenant,
            metadata=batch.metadata,
            output_after_ms=batch.output_after_ms,
            retry_of=batch.id,
            trace=place_of(request.scope),
        )
        child, replayed = await submit(services, spec)
        if replayed:
            await services.files.delete(file.id)
        else:
            log.info("batch_retried", batch=batch.id, retried_as=child.id, tenant=asked_by(request.scope))
        return answer(batch_view(child))

    async def events(self, batch_id: str) -> AsyncIterator[bytes]:
        """Yield Server-Sent Events until the batch has ended."""
        told: bytes | None = None
        silent = 0
        while True:
            try:
                batch = await self._services.batches.get(batch_id)
            except StoreUnavailableError:
                return  # an early end, after which the reader comes again
            if batch is None:
                return
            data = msgspec.json.encode(_progress(batch))
            if batch.status.terminal:
                yield b"event: %b\ndata: %b\n\n" % (
                    batch.status.encode(),
                    msgspec.json.encode(batch_view(batch)),
                )
                return
            silent += 1
            if data != told:
                told, silent = data, 0
                yield b"event: progress\ndata: %b\n\n" % data
            elif silent % _PING_EVERY == 0:
                yield b": ping\n\n"
            await asyncio.sleep(EVENT_GAP_S)

    async def verify(self, batch_id: str) -> Response:
        """Compare the files."""
        return answer(await verify(self._bulk(), await found_batch(self._services, batch_id)))


def _progress(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "status": batch.status.value,
        "request_counts": counts_view(batch),
        **progress_view(batch),
        **pause_view(batch),
        "usage": usage_view(batch),
    }


def register(router: APIRouter, services: Services) -> None:
    """Add the routes."""
    more = More(services)
    docs: dict[str, Any] = {}

    @router.get(
        "/v1/batches/{batch_id}/results",
        summary="Read rows while it runs",
        responses={
            200: {"content": {"application/jsonl": {}}, "description": "Rows; see the headers."},
            **error_docs(400, 404, 410, 503),
        },
        **docs,
    )
    async def results(
        batch_id: str,
        after: Annotated[str | None, Query(description="`X-Next-Cursor` of the page before.")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000, description="Rows in a page.")] = 1000,
    ) -> Response:
        """What is committed: rows that succeeded and rows that did not. `X-Incomplete: true`: there is more, or will be."""
        batch = await found_batch(services, batch_id)
        position = Position() if after is None else Position.decode(after)
        page = await read_results(services, batch, position, limit)
        headers = {
            "x-incomplete": "true" if page.incomplete else "false",
            "x-next-cursor": page.position.encode(),
        }
        body = b"".join(row + b"\n" for row in page.rows)
        return Response(body, 200, headers, "application/jsonl")

    @router.get(
        "/v1/batches/{batch_id}/events",
        summary="Follow a batch",
        responses={200: {"content": {"text/event-stream": {}}}, **error_docs(404, 503)},
        **docs,
    )
    async def events(batch_id: str) -> Response:
        """Server-Sent Events: `progress` when something has changed, once a second at most; last its final status."""
        batch = await found_batch(services, batch_id)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(more.events(batch.id), 200, headers, "text/event-stream")

    @router.post(
        "/v1/batches/{batch_id}/pause",
        summary="Pause a batch",
        responses={200: {"model": BatchObject}, **error_docs(404, 409, 503)},
        **docs,
    )
    async def pause(batch_id: str, request: Request) -> Response:
        """Rows that run end; no more begin until it is resumed. Its window goes on."""
        return await more.set_paused(batch_id, request, paused=True)

    @router.post(
        "/v1/batches/{batch_id}/resume",
        summary="Resume a batch",
        responses={200: {"model": BatchObject}, **error_docs(404, 409, 503)},
        **docs,
    )
    async def resume(batch_id: str, request: Request) -> Response:
        """Let a paused batch go on."""
        return await more.set_paused(batch_id, request, paused=False)

    @router.post(
        "/v1/batches/{batch_id}/retry",
        summary="Repeat a batch's failed rows",
        responses={200: {"model": BatchObject}, **error_docs(404, 409, 410, 503, 507)},
        **docs,
    )
    async def retry(batch_id: str, request: Request) -> Response:
        """A new batch of the rows in the error file. A batch is repeated once: a second call finds that repetition."""
        return await more.retry(batch_id, request)

    @router.get(
        "/v1/batches/{batch_id}/verify",
        summary="Verify a batch",
        responses={200: {"model": Verified}, **error_docs(404, 409, 410, 503)},
        **docs,
    )
    async def verify_batch(batch_id: str) -> Response:
        """Read input, output and error file, and say whether every row has one line and none is missing."""
        return await more.verify(batch_id)
