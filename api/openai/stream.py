"""Answering a call with its job's stream, as Server-Sent Events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from typing import TypeAlias

import msgspec
from starlette.types import Send

from api.http.errors import SERVER, ApiError
from api.http.handlers import broken_off
from api.http.job_end import timing_headers
from api.http.keep_alive import KeptStream
from api.http.sse import HEADERS, PING
from api.http.strict import shaped_stream
from api.openai.event_frames import ResponseStream
from api.openai.frames import DONE, OpenAIStream
from api.openai.message_frames import MessageStream
from api.openai.resumable import ResumableStream
from api.openai.sync import Last, answer_end, note_end, record_gone, refusal_of, whole_end
from api.services import Services
from broker.db.errors import StoreError
from broker.events.inbox import Inbox
from jobs.endpoints import ENDPOINTS, MESSAGES, RESPONSES
from jobs.model import JobSpec
from jobs.sealing import SealingError
from jobs.states import JobState
from monitoring import failpoints
from monitoring.tracing import NO_SPAN, Kind, Span
from storage import StorageError

Stream: TypeAlias = OpenAIStream | ResponseStream | MessageStream | ResumableStream
"""Renders the events of a job."""


async def answer_stream(
    services: Services,
    spec: JobSpec,
    inbox: Inbox,
    send: Send,
    span: Span,
    started: Callable[[], None] = lambda: None,
    joined: Stream | None = None,
    *,
    early: bool = False,
) -> tuple[bool, Last]:
    """Stream a job.

    The head is sent with the first chunk, so that a refusal has its status; or after a silence of ``sse_ping_s``, with a
    comment that keeps proxies from cutting the connection. From then on a refusal is an event.

    Args:
        inbox: registered before the job was accepted, or before it was joined.
        started: called once, before the first chunk is sent.
        joined: renders a job that an earlier call made; None: this call made the job.
        early: send the head at once, which names the job, so that its caller can look where it stands.

    Returns:
        Whether the job has ended, and what sends the end of the response.

    Raises:
        LookupError: the job's record is gone.
        SealingError: an event is encrypted and cannot be read; nothing was sent yet.
        StoreError: Redis refuses a command, or is away when the result is read; nothing was sent yet.
    """
    job_id = spec.id
    shaped = shaped_stream(spec.endpoint, send) if services.settings.openai_strict else send
    stream = joined or _frames_for(spec)
    sent = False
    step = NO_SPAN

    def begin() -> None:
        nonlocal sent, step
        sent = True
        started()
        step = _begin(services, span)

    head = [*HEADERS, *timing_headers(job_id)]
    with KeptStream(shaped, head, services.settings.sse_ping_s) as kept:
        try:
            if early:
                await kept.write(PING)
            data = await _relay(services, spec, inbox, stream, kept, begin, live=joined is None)
            if stream.ending is not None and not sent and kept.begun:  # only the head was sent
                data = await _end_without_chunks(services, spec, stream)
        except (ApiError, LookupError, StoreError, SealingError, StorageError) as error:
            if not kept.begun:
                raise
            data = stream.fail(record_gone(job_id) if isinstance(error, LookupError) else broken_off(error))
        finally:
            step.end()
    if stream.ending is not None:
        note_end(span, job_id, stream.ending)
        if not (sent or kept.begun):  # the job ended before its first chunk: it gets a whole response
            return True, await answer_end(services, spec, stream.ending, send)
    if stream.error_code is not None:
        services.metrics.errors.labels(stream.error_code).inc()
    return stream.ending is not None, partial(kept.write, data, more=False)


async def _relay(
    services: Services,
    spec: JobSpec,
    inbox: Inbox,
    stream: Stream,
    kept: KeptStream,
    begin: Callable[[], None],
    *,
    live: bool,
) -> bytes:
    """Write a job's events until its stream is over; return the last bytes. ``begin`` is called before the first chunk."""
    sent = False
    follow = services.hub.follow(spec.id, inbox, live=live, owner=spec.tenant)
    async with aclosing(follow) as batches:
        async for events in batches:
            failpoints.hit("api.mid_stream")
            data = stream.feed(events)
            if data and not sent:
                sent = True
                begin()
            if stream.over:
                return data
            if data:
                await kept.write(data)
    return b""


async def _end_without_chunks(services: Services, spec: JobSpec, stream: Stream) -> bytes:
    """Return the events that end a stream of which only the head was sent.

    Raises:
        LookupError: the job's record is gone.
        SealingError: its result is encrypted and cannot be read.
        StorageError: its result is in the storage and cannot be read.
        StoreError: Redis refuses a command, or is away.
    """
    ending = stream.ending
    if ending is None:
        raise ValueError("the job has not ended")
    if ending.state is not JobState.SUCCEEDED:
        return stream.fail(await refusal_of(services, spec, ending))
    if ENDPOINTS[spec.endpoint].streams != "chunks":
        return stream.fail(ApiError(500, "the engine sent no events", "engine_error", type_=SERVER))
    _, body, _ = await whole_end(services, spec, ending)  # its engine cannot stream
    return b"data: %b\n\n" % msgspec.json.format(body, indent=-1) + DONE


def _frames_for(spec: JobSpec) -> Stream:
    """Return what renders a job's stream, in the form of its endpoint."""
    if spec.endpoint == RESPONSES:
        return ResponseStream(spec.id, spec.shown)
    if spec.endpoint == MESSAGES:
        return MessageStream(spec.id)
    if (
        spec.listed or spec.idempotency_key is not None
    ):  # it outlives its connection, so it has numbers to resume by
        return ResumableStream(spec.id, spec.endpoint, spec.shown, headless=True)
    return OpenAIStream(spec.id, spec.shown)


def _begin(services: Services, span: Span) -> Span:
    """Begin the span of a response's stream, from its first byte on."""
    return services.tracer.begin("stream", Kind.INTERNAL, span.context) if span.recording else NO_SPAN
