"""Beyond OpenAI's Batches API: a batch's progress as Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from api.access.identity import owner_of
from api.batches.event_schema import BatchEvent
from api.batches.view import batch_view, counts_view, found_batch, pause_view, progress_view, usage_view
from api.http.errors import invalid
from api.http.openapi import error_docs, streamed
from api.http.sse import PING, event_frame
from api.services import Services
from broker.db.errors import StoreError
from jobs.batch_model import Batch

EVENT_GAP_S = 1.0
"""Least time between two events of progress."""

_MOST_DIGITS = 16


def register(router: APIRouter, services: Services) -> None:
    """Add the route."""

    @router.get(
        "/v1/batches/{batch_id}/events",
        operation_id="streamBatchEvents",
        summary="Follow a batch",
        responses={
            200: {"content": streamed(BatchEvent)},
            204: {"description": "The reader has the last event."},
            **error_docs(400, 404, 503),
        },
    )
    async def events(batch_id: str, request: Request) -> Response:
        """Server-Sent Events: `progress` after a change, at most once a second; the last one has its final status.

        With `Last-Event-ID` the stream begins with the next change; what was missed is in its first event.
        """
        owner = owner_of(request.scope)
        seen = _cursor(request.headers.get("last-event-id"))
        batch = await found_batch(services, batch_id, owner)
        if batch.status.terminal and seen >= batch.revision:
            return Response(status_code=204)  # stops a browser's EventSource from reconnecting
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(_events(services, batch.id, owner, seen), 200, headers, "text/event-stream")


def _cursor(text: str | None) -> int:
    """Read the number of the last event that a reader has; -1: it has none."""
    if not text:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS):
        raise invalid(f"Last-Event-ID: not an event of this batch: {text[:64]!r}", "Last-Event-ID")
    return int(text)


async def _events(services: Services, batch_id: str, owner: str | None, seen: int) -> AsyncIterator[bytes]:
    """Yield events until the batch has ended.

    The hub wakes it after a change, of which the reader may see nothing. A message may be lost, so it also looks after each
    silence.
    """
    ping_s, clock = services.settings.sse_ping_s, asyncio.get_running_loop().time
    told, sent_at = b"", clock()
    with services.hub.inbox(batch_id) as inbox:
        try:
            if not await services.batches.watch(batch_id, services.process, owner=owner):
                return
            while True:
                batch = await services.batches.get(batch_id, owner=owner)
                if batch is None:
                    return
                data = _shown(batch)
                if batch.revision > seen and data != told:
                    told, sent_at = data, clock()
                    yield event_frame(
                        str(batch.revision), batch.status if batch.status.terminal else "progress", data
                    )
                    if batch.status.terminal:
                        return
                await asyncio.sleep(EVENT_GAP_S)
                await inbox.take(max(0.0, sent_at + ping_s - clock()))
                if clock() - sent_at >= ping_s:
                    sent_at = clock()
                    yield PING
        except StoreError:
            return  # the stream ends early; its reader reconnects and gets the rest


def _shown(batch: Batch) -> bytes:
    return msgspec.json.encode(batch_view(batch) if batch.status.terminal else _progress(batch))


def _progress(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "status": batch.status.value,
        "request_counts": counts_view(batch),
        **progress_view(batch),
        **pause_view(batch),
        "usage": usage_view(batch),
    }
