"""A job's events as Server-Sent Events, without I/O.

An event's id is its log entry's, ``<attempt>-<seq>``. If one entry makes several events, all but the last have the id
``<attempt>-<seq>.<n>``: n events of that entry were delivered. So a reader can resume anywhere without loss or repetition.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from api.http.errors import invalid
from api.http.sse import Texts, event_frame, merged
from broker.events.hub import parse_cursor
from broker.events.inbox import EventId
from jobs.stream_chunks import TEXT_KINDS


@dataclass(frozen=True, slots=True)
class Cursor:
    """A reader's position: it has every entry up to ``attempt-seq``, and ``part`` events of the next one."""

    attempt: int = 0
    seq: int = 0
    part: int = 0

    @property
    def after(self) -> EventId:
        """The last entry of which the reader has all events."""
        return f"{self.attempt}-{self.seq}"


def read_cursor(text: str) -> Cursor:
    """Read an event id that a client sent back.

    Raises:
        ApiError: 400, this is no event id.
    """
    entry, dot, part = text.partition(".")
    try:
        attempt, seq = parse_cursor(entry)
        if len(entry) > 32:
            raise ValueError(entry)
        if not dot:
            return Cursor(attempt, seq)
        if not (part.isascii() and part.isdigit() and len(part) < 10 and seq):
            raise ValueError(part)
    except ValueError:
        message = f"{text[:64]!r} is not an event id of this stream; send back an id unchanged"
        raise invalid(message, "Last-Event-ID") from None
    return Cursor(attempt, seq - 1, int(part))


class EventFrames:
    """Renders the events of a job for one reader, who resumes at ``cursor``."""

    def __init__(self, job_id: str, cursor: Cursor) -> None:
        self._job_id = job_id
        self._skip_in = f"{cursor.attempt}-{cursor.seq + 1}" if cursor.part else ""
        self._skip = cursor.part
        self._texts = Texts()

    def take_head(self, payload: str) -> None:
        """Take the head of an attempt within which the reader resumes."""
        if payload[0] == "h":
            self._texts.read(payload)

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Return the bytes for these entries. The caller renders the end entry."""
        out: list[bytes] = []
        for eid, payload in merged(events):
            self._take(eid, payload, out)
        return b"".join(out)

    def _take(self, eid: EventId, payload: str, out: list[bytes]) -> None:
        kind = payload[0]
        if kind in TEXT_KINDS:
            out.append(event_frame(eid, "chunk", self._texts.frame(payload)))
        elif kind == "s":
            out.append(self._state(eid, payload))
        elif kind in "hj":
            self._chunks(eid, self._texts.read(payload), out)

    def _chunks(self, eid: EventId, frames: Sequence[str], out: list[bytes]) -> None:
        skip = self._skip if eid == self._skip_in else 0
        for number, data in enumerate(frames, 1):
            if number > skip:
                part_id = eid if number == len(frames) else f"{eid}.{number}"
                out.append(event_frame(part_id, "chunk", data.encode()))

    def _state(self, eid: EventId, payload: str) -> bytes:
        change = json.loads(payload[1:])
        name = change["state"]
        data = {"id": self._job_id, "state": name, "attempt": change["attempt"]}
        if name == "running":
            data["worker"] = change.get("worker")
            if change["attempt"] > 1:
                name = "restarted"
        return event_frame(eid, name, msgspec.json.encode(data))
