"""``GET /v1/jobs/{id}/events``: follow a job from its start, or from a reader's last event."""

from __future__ import annotations

from contextlib import aclosing

import msgspec
import structlog
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from api.access.identity import owner_of
from api.http.asgi import header
from api.http.hangup import until_hangup
from api.http.pings import pings
from api.http.sse import HEADERS, event_frame
from api.jobs.frames import Cursor, EventFrames, read_cursor
from api.jobs.view import checked_id, found_job, job_view
from api.services import Services
from broker.db.errors import StoreError
from broker.events.hub import SEQ_END
from broker.events.inbox import EventId, Inbox
from jobs.sealing import SealingError
from monitoring import failpoints

log = structlog.get_logger(__name__)


class JobEvents:
    """The route, as an ASGI application. A reader that leaves does not cancel the job."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream a job's events until it ends.

        Raises:
            ApiError: 404, or 400 for a cursor that is not an event id.
            ClientGoneError: the reader left.
        """
        job_id, owner = scope["path_params"]["job_id"], owner_of(scope)
        cursor = _cursor(scope)
        checked_id(job_id)
        frames = EventFrames(job_id, cursor)
        with self._services.hub.inbox(job_id) as inbox, until_hangup(scope):
            job = await found_job(self._services, job_id, owner)
            if job.state.terminal and (cursor.attempt, cursor.seq) >= (job.attempt, SEQ_END):
                await send({"type": "http.response.start", "status": 204, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return  # the reader has the end; 204 stops a browser's EventSource from reconnecting
            if cursor.attempt and cursor.seq:
                head = await self._services.store.log_entry(job_id, f"{cursor.attempt}-1", owner=owner)
                frames.take_head(head or " ")
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            last = await self._follow(job_id, owner, inbox, cursor, frames, send)
        await send({"type": "http.response.body", "body": last})

    async def _follow(
        self,
        job_id: str,
        owner: str | None,
        inbox: Inbox,
        cursor: Cursor,
        frames: EventFrames,
        send: Send,
    ) -> bytes:
        """Send events until the end; return the last bytes to send."""
        follow = self._services.hub.follow(job_id, inbox, after=cursor.after, owner=owner)
        try:
            async with pings(send, self._services.settings.sse_ping_s) as beat, aclosing(follow) as batches:
                async for events in batches:
                    failpoints.hit("api.mid_events")
                    eid, payload = events[-1]
                    data = frames.feed(events)
                    if payload[0] == "e":
                        return data + await self._end(job_id, owner, eid)
                    if data:
                        beat.set()
                        await send({"type": "http.response.body", "body": data, "more_body": True})
        except (LookupError, SealingError, StoreError) as error:
            # The response has begun, so no error can be sent. An early end makes the reader reconnect and resume.
            log.warning("event_stream_cut", job_id=job_id, error=str(error))
        return b""

    async def _end(self, job_id: str, owner: str | None, eid: EventId) -> bytes:
        job = await self._services.store.get(job_id, owner=owner)
        if job is None:
            return b""
        return event_frame(eid, job.state.value, msgspec.json.encode(job_view(job)))


def _cursor(scope: Scope) -> Cursor:
    """Read the position to resume from: the header, or else the query."""
    value = header(scope, b"last-event-id")
    if value is not None:
        text: str | None = value.decode("latin-1")
    else:
        text = QueryParams(scope.get("query_string", b"")).get("after")
    return read_cursor(text) if text else Cursor()
