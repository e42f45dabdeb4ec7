"""The stream of a response: for whoever submits one in the background, and for every later reader."""

from __future__ import annotations

from contextlib import aclosing

import structlog
from starlette.types import Scope, Send

from api.http.asgi import Header
from api.http.errors import ApiError
from api.http.handlers import broken_off
from api.http.hangup import until_hangup
from api.http.job_end import timing_headers
from api.http.pings import pings
from api.http.sse import HEADERS
from api.http.strict import shaped_stream
from api.openai.event_frames import NumberedStream, ResponseStream
from api.responses.view import response_view, waiting_view
from api.services import Services
from broker.db.errors import StoreFaultError, StoreUnavailableError
from broker.events.inbox import Inbox
from jobs.endpoints import RESPONSES
from jobs.model import Job
from jobs.sealing import SealingError
from monitoring import failpoints
from storage import StorageError, StorageUnavailableError

log = structlog.get_logger(__name__)


class Reader:
    """Sends the stream of one response to one reader. A reader that leaves does not cancel the job.

    Args:
        job_id: its job's.
        owner: the tenant that asks; None: an admin.
        inbox: registered for the job before it was accepted, or is read.
    """

    def __init__(self, services: Services, job_id: str, owner: str | None, inbox: Inbox) -> None:
        self._services = services
        self._job_id, self._owner, self._inbox = job_id, owner, inbox

    async def send(
        self,
        frames: NumberedStream | ResponseStream,
        scope: Scope,
        send: Send,
        *,
        live: bool = False,
        headers: list[Header] | None = None,
    ) -> None:
        """Send the events of ``frames`` until the job has ended.

        Args:
            live: the job was accepted with this process as its sink.
            headers: further ones.

        Raises:
            ClientGoneError: the reader left.
        """
        if self._services.settings.openai_strict:
            send = shaped_stream(RESPONSES, send)
        with until_hangup(scope):
            head = [*HEADERS, *timing_headers(self._job_id), *(headers or [])]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            last = await self._follow(frames, send, live=live)
        await send({"type": "http.response.body", "body": last})

    async def _follow(self, frames: NumberedStream | ResponseStream, send: Send, *, live: bool) -> bytes:
        """Send events until the end; return the last bytes to send."""
        follow = self._services.hub.follow(self._job_id, self._inbox, live=live, owner=self._owner)
        try:
            async with pings(send, self._services.settings.sse_ping_s) as beat, aclosing(follow) as batches:
                if isinstance(frames, NumberedStream):
                    await send({"type": "http.response.body", "body": frames.begin(), "more_body": True})
                async for events in batches:
                    failpoints.hit("api.mid_events")
                    data = frames.feed(events)
                    if frames.over:
                        return data + (await self._end(frames) if frames.unsaid else b"")
                    if data:
                        beat.set()
                        await send({"type": "http.response.body", "body": data, "more_body": True})
        except (LookupError, StoreUnavailableError, StorageUnavailableError) as error:
            # What time mends is no error of the response. An early end makes the reader reconnect and resume.
            log.warning("event_stream_cut", job_id=self._job_id, error=str(error))
        except (ApiError, StoreFaultError, SealingError, StorageError) as error:
            log.warning("event_stream_cut", job_id=self._job_id, error=str(error))
            return frames.fail(broken_off(error))
        return b""

    async def _end(self, frames: NumberedStream | ResponseStream) -> bytes:
        job, stored = await self._services.store.get_with_result(
            self._job_id, position=False, owner=self._owner
        )
        if job is None or stored is None:
            return b""
        return frames.end(await response_view(self._services, job, stored))


async def frames_for(services: Services, job: Job, after: int) -> NumberedStream | ResponseStream:
    """Return what renders a response's stream for a reader who has the event number ``after`` (-1: none).

    Raises:
        SealingError: its request is encrypted and cannot be read.
    """
    if not job.shown.get("background"):
        return ResponseStream(job.id, job.shown, after)
    request = await services.store.request(job.id, owner=job.tenant)
    queued = await waiting_view(services, job, request or b"")
    return NumberedStream(queued, job.shown, after)
