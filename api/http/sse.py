"""Server-Sent Events (WHATWG HTML section 9.2), and the texts of a job's stream as JSON chunks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from api.http.asgi import Header
from broker.events.inbox import EventId
from jobs.stream_chunks import Frames, Head, decode

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
    if sum(payload[0] == "t" for _, payload in events) <= MERGE_ABOVE:
        return events
    out: list[tuple[EventId, str]] = []
    for is_text, group in itertools.groupby(events, lambda event: event[1][0] == "t"):
        run = list(group)
        out += [(run[-1][0], "t" + "".join(payload[1:] for _, payload in run))] if is_text else run
    return out


class Texts:
    """Renders ``t`` payloads: a text is put between the two halves of its stream's head."""

    def __init__(self) -> None:
        self._pre = b""
        self._post = b""
        self.known = False

    def read(self, payload: str) -> Sequence[str]:
        """Return the whole frames in an ``h`` or ``j`` payload, and remember its head."""
        chunk = decode(payload)
        if isinstance(chunk, Head):
            self._pre, self._post, self.known = chunk.pre.encode(), chunk.post.encode(), True
            return chunk.first
        return chunk.frames if isinstance(chunk, Frames) else ()

    def frame(self, text: str) -> bytes:
        """Return a text's chunk as JSON.

        Raises:
            ValueError: there was no head.
        """
        if not self.known:
            raise ValueError("a text came before its stream's head")
        return self._pre + json_string(text) + self._post
