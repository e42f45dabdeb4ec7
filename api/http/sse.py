"""Server-Sent Events (WHATWG HTML section 9.2), and the texts of a job's stream as JSON chunks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from api.http.asgi import Header
from broker.events.inbox import EventId
from jobs.stream_chunks import TEXT_KINDS, Frames, Head, decode

PING = b": ping\n\n"
HEADERS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold the events back
]

MERGE_ABOVE = 8
"""If more texts than this wait for a client, it gets them as one chunk."""

# JSON strings as pydantic's model_dump_json writes them: raw UTF-8, with only the escapes that JSON requires.
json_string = msgspec.json.Encoder().encode


def event_frame(eid: EventId, event: str, data: bytes) -> bytes:
    """Return one event. ``data`` is compact JSON, which has no raw newline."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (eid.encode(), event.encode(), data)


def merged(events: Sequence[tuple[EventId, str]]) -> Sequence[tuple[EventId, str]]:
    """Join neighbouring texts among log entries if there are more than :data:`MERGE_ABOVE`; the last one's id stays."""
    if sum(payload[0] in TEXT_KINDS for _, payload in events) <= MERGE_ABOVE:
        return events
    out: list[tuple[EventId, str]] = []
    for kind, group in itertools.groupby(events, lambda event: event[1][0]):
        run = list(group)
        if kind in TEXT_KINDS:
            run = [(run[-1][0], kind + "".join(payload[1:] for _, payload in run))]
        out += run
    return out


class Texts:
    """Renders ``t`` and ``r`` payloads: a text is put between the two halves that its stream's head has for its kind."""

    def __init__(self) -> None:
        self._around: dict[str, tuple[bytes, bytes]] = {}

    def read(self, payload: str) -> Sequence[str]:
        """Return the whole frames in an ``h`` or ``j`` payload, and remember its head."""
        chunk = decode(payload)
        if isinstance(chunk, Head):
            self._around = {"t": (chunk.pre.encode(), chunk.post.encode())}
            if chunk.reasoning is not None:
                self._around["r"] = (chunk.reasoning[0].encode(), chunk.reasoning[1].encode())
            return chunk.first
        return chunk.frames if isinstance(chunk, Frames) else ()

    def frame(self, payload: str) -> bytes:
        """Return the chunk of a ``t`` or ``r`` payload as JSON.

        Raises:
            ValueError: there was no head for it.
        """
        around = self._around.get(payload[0])
        if around is None:
            raise ValueError("a text came before its stream's head")
        return around[0] + json_string(payload[1:]) + around[1]
