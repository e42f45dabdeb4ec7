"""Beyond OpenAI's Batches API: a batch's progress as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from api.access.identity import owner_of
from api.batches.view import batch_view, counts_view, found_batch, pause_view, progress_view, usage_view
from api.http.openapi import error_docs
from api.services import Services
from broker.db.errors import StoreError
from jobs.batch_model import Batch

EVENT_GAP_S = 1.0
_PING_EVERY = 15


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.get(
        "/v1/batches/{batch_id}/events",
        summary="Follow a batch",
        responses={200: {"content": {"text/event-stream": {}}}, **error_docs(404, 503)},
    )
    async def events(batch_id: str, request: Request) -> Response:
        """Server-Sent Events: `progress` after a change, at most once a second; the last one has its final status."""
        owner = owner_of(request.scope)
        batch = await found_batch(services, batch_id, owner)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(_events(services, batch.id, owner), 200, headers, "text/event-stream")


async def _events(services: Services, batch_id: str, owner: str | None) -> AsyncIterator[bytes]:
    """Yield events until the batch has ended."""
    told: bytes | None = None
    silent = 0
    while True:
        try:
            batch = await services.batches.get(batch_id, owner=owner)
        except StoreError:
            return  # the stream ends early; its reader reconnects and gets the rest
        if batch is None:
            return
        if batch.status.terminal:
            ended = msgspec.json.encode(batch_view(batch))
            yield b"event: %b\ndata: %b\n\n" % (batch.status.encode(), ended)
            return
        data = msgspec.json.encode(_progress(batch))
        silent += 1
        if data != told:
            told, silent = data, 0
            yield b"event: progress\ndata: %b\n\n" % data
        elif silent % _PING_EVERY == 0:
            yield b": ping\n\n"
        await asyncio.sleep(EVENT_GAP_S)


def _progress(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "status": batch.status.value,
        "request_counts": counts_view(batch),
        **progress_view(batch),
        **pause_view(batch),
        "usage": usage_view(batch),
    }
