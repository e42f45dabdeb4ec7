"""Answering a call with its job's stream, as Server-Sent Events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import partial

from starlette.types import Send

from api.http.handlers import broken_off
from api.http.job_end import timing_headers
from api.http.sse import HEADERS
from api.openai.frames import OpenAIStream
from api.openai.message_frames import MessageStream
from api.openai.sync import Last, answer_end, note_end
from api.services import Services
from broker.db.errors import StoreFaultError
from broker.events.inbox import Inbox
from jobs.endpoints import MESSAGES
from jobs.model import JobSpec
from jobs.sealing import SealingError
from monitoring import failpoints
from monitoring.tracing import NO_SPAN, Kind, Span


async def answer_stream(
    services: Services, spec: JobSpec, inbox: Inbox, send: Send, span: Span, started: Callable[[], None]
) -> tuple[bool, Last]:
    """Stream a job.

    ``inbox`` was registered before the job was accepted. ``started`` is called once, before the first chunk is sent.

    Returns:
        Whether the job has ended, and what sends the end of the response.

    Raises:
        LookupError: the job's record is gone.
        SealingError: an event is encrypted and cannot be read; nothing was sent yet.
        StoreError: Redis refuses a command, or is away when the result is read; nothing was sent yet.
    """
    job_id = spec.id
    stream = MessageStream(job_id) if spec.endpoint == MESSAGES else OpenAIStream(job_id, spec.shown)
    sent = False
    data = b""
    step = NO_SPAN
    async with aclosing(services.hub.follow(job_id, inbox, live=True, owner=spec.tenant)) as batches:
        try:
            async for events in batches:
                failpoints.hit("api.mid_stream")
                data = stream.feed(events)
                if data and not sent:
                    sent = True
                    started()
                    step = _begin(services, span)
                    headers = [*HEADERS, *timing_headers(job_id)]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                if stream.over:
                    break
                if data:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
        except (StoreFaultError, SealingError) as error:
            if not sent:
                raise
            data = stream.fail(broken_off(error))
        finally:
            step.end()
    if stream.ending is not None:
        note_end(span, job_id, stream.ending)
        if not sent:  # the job ended before its first chunk: it gets a whole response
            return True, await answer_end(services, spec, stream.ending, send)
    if stream.error_code is not None:
        services.metrics.errors.labels(stream.error_code).inc()
    return stream.ending is not None, partial(send, {"type": "http.response.body", "body": data})


def _begin(services: Services, span: Span) -> Span:
    """Begin the span of a response's stream, from its first byte on."""
    return services.tracer.begin("stream", Kind.INTERNAL, span.context) if span.recording else NO_SPAN
