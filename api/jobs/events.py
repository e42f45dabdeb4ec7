"""``GET /v1/jobs/{id}/events``: follow a job, from the start or from where a reader was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import msgspec
import structlog
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from api.http.asgi import header, until_hangup
from api.http.errors import job_not_found
from api.jobs.frames import PING, Cursor, EventFrames, frame, read_cursor
from api.jobs.view import job_view
from api.services import Services
from broker.db.errors import StoreUnavailableError
from broker.events.hub import SEQ_END, EventId, Inbox
from jobs.ids import is_job_id
from monitoring import failpoints

log = structlog.get_logger(__name__)

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the events back
]


class JobEvents:
    """The route, as an ASGI application. A reader that leaves merely stops watching."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream a job's events until it is over.

        Raises:
            ApiError: 404, or 400 for a cursor that cannot be read.
            ClientGoneError: the reader left.
        """
        job_id = scope["path_params"]["job_id"]
        cursor = _cursor(scope)
        if not is_job_id(job_id):
            raise job_not_found(job_id)
        await receive()  # the (empty) body, so that what comes next is the hang-up
        frames = EventFrames(job_id, cursor)
        with self._services.hub.inbox(job_id) as inbox:
            async with until_hangup(receive):
                job = await self._services.store.get(job_id)
                if job is None:
                    raise job_not_found(job_id)
                if job.state.terminal and (cursor.attempt, cursor.seq) >= (job.attempt, SEQ_END):
                    await send({"type": "http.response.start", "status": 204, "headers": []})
                    await send({"type": "http.response.body", "body": b""})
                    return  # it has seen the end; 204 makes a browser's EventSource stop asking
                if cursor.attempt and cursor.seq:
                    head = await self._services.store.log_entry(job_id, f"{cursor.attempt}-1")
                    frames.take_head(head or " ")
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                last = await self._follow(job_id, inbox, cursor, frames, send)
        await send({"type": "http.response.body", "body": last})

    async def _follow(
        self, job_id: str, inbox: Inbox, cursor: Cursor, frames: EventFrames, send: Send
    ) -> bytes:
        """Send events until the end; return what is left to send."""
        follow = self._services.hub.follow(job_id, inbox, after=cursor.after)
        try:
            async with self._pings(send) as beat, aclosing(follow) as batches:
                async for events in batches:
                    failpoints.hit("api.mid_events")
                    eid, payload = events[-1]
                    data = frames.feed(events)
                    if payload[0] == "e":
                        return data + await self._end(job_id, eid)
                    if data:
                        beat.set()
                        await send({"type": "http.response.body", "body": data, "more_body": True})
        except (LookupError, StoreUnavailableError) as error:
            # The head is sent: all that can be said is an early end, behind which the reader resumes.
            log.warning("event_stream_cut", job_id=job_id, error=str(error))
        return b""

    async def _end(self, job_id: str, eid: EventId) -> bytes:
        job = await self._services.store.get(job_id)
        if job is None:
            return b""
        return frame(eid, job.state.value, msgspec.json.encode(job_view(job)))

    @asynccontextmanager
    async def _pings(self, send: Send) -> AsyncIterator[asyncio.Event]:
        """Send a comment whenever the yielded event was not set for a while."""
        beat = asyncio.Event()

        async def ping() -> None:
            while True:
                try:
                    async with asyncio.timeout(self._services.settings.sse_ping_s):
                        await beat.wait()
                    beat.clear()
                except TimeoutError:
                    await send({"type": "http.response.body", "body": PING, "more_body": True})

        task = asyncio.create_task(ping(), name="pings")
        try:
            yield beat
        finally:
            task.cancel()


def _cursor(scope: Scope) -> Cursor:
    """Read where to go on: the header counts before the query."""
    told = header(scope, b"last-event-id")
    text = (
        told.decode("latin-1")
        if told is not None
        else QueryParams(scope.get("query_string", b"")).get("after")
    )
    return read_cursor(text) if text else Cursor()
