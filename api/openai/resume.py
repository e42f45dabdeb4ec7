"""Following the stream of any job, in its endpoint's own form, from its start or after an event that the reader has."""

from __future__ import annotations

from contextlib import aclosing

import structlog
from starlette.datastructures import QueryParams
from starlette.types import Scope, Send

from api.http.asgi import header
from api.http.errors import invalid
from api.http.handlers import broken_off
from api.http.hangup import until_hangup
from api.http.job_end import timing_headers
from api.http.openapi import parameter
from api.http.pings import pings
from api.http.sse import HEADERS
from api.http.strict import shaped_stream
from api.openai.resumable import ResumableStream
from api.services import Services
from broker.db.errors import StoreError, StoreFaultError
from jobs.endpoints import ENDPOINTS
from jobs.model import Job
from jobs.sealing import SealingError
from jobs.states import JobState
from monitoring import failpoints

log = structlog.get_logger(__name__)

PLACE = (
    parameter("query", "starting_after", "The `id` of the last event that you have.", type="integer"),
    parameter("header", "Last-Event-ID", "The same, as browsers send it. It overrides the query."),
)
"""The parameters that say where a reader resumes."""

_MOST_DIGITS = 15


def starting_after(scope: Scope) -> int:
    """Read where a reader resumes; 0: from the start.

    Raises:
        ApiError: 400, that is no number of an event.
    """
    value = header(scope, b"last-event-id")
    name = "starting_after" if value is None else "Last-Event-ID"
    text = QueryParams(scope.get("query_string", b"")).get(name) if value is None else value.decode("latin-1")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        message = f"{text[:64]!r} is not the number of an event; send back an `id` of this stream"
        raise invalid(message, name)
    return int(text)


async def resume(
    services: Services, job: Job, owner: str | None, after: int, scope: Scope, send: Send
) -> None:
    """Send a job's stream until its end. A reader that leaves does not cancel the job.

    Args:
        job: as it was read for ``owner``.
        after: the number of the reader's last event; 0: it has none.

    Raises:
        ApiError: 400, the job does not stream.
        ClientGoneError: the reader left.
    """
    if not job.stream or ENDPOINTS[job.endpoint].streams is None:
        message = f"{job.id} was submitted without `stream: true`, so it has no stream; get its result"
        raise invalid(message, "stream")
    if services.settings.openai_strict:
        send = shaped_stream(job.endpoint, send)
    with until_hangup(scope):
        headers = [*HEADERS, *timing_headers(job.id)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        last = await _follow(services, job, owner, after, send)
    await send({"type": "http.response.body", "body": last})


async def _follow(services: Services, job: Job, owner: str | None, after: int, send: Send) -> bytes:
    """Send events until the end; return the last bytes to send."""
    stream = stream_of(job, after)
    try:
        with services.hub.inbox(job.id) as inbox:
            follow = services.hub.follow(job.id, inbox, owner=owner)
            async with pings(send, services.settings.sse_ping_s) as beat, aclosing(follow) as batches:
                async for events in batches:
                    failpoints.hit("api.mid_stream")
                    data = stream.feed(events)
                    if stream.over:
                        return data
                    if data:
                        beat.set()
                        await send({"type": "http.response.body", "body": data, "more_body": True})
    except (StoreFaultError, SealingError) as error:
        return stream.fail(broken_off(error))
    except (LookupError, StoreError) as error:
        # An early end makes the reader resume.
        log.warning("event_stream_cut", job_id=job.id, error=str(error))
    return b""


def stream_of(job: Job, after: int = 0, *, headless: bool = False) -> ResumableStream:
    """Return what renders a job's stream for a reader; see :class:`api.openai.resumable.ResumableStream`."""
    lost = job.state is JobState.QUEUED and job.attempt > 0
    attempt = job.attempt + 1 if lost else job.attempt
    return ResumableStream(job.id, job.endpoint, job.shown, after, attempt, headless=headless)
