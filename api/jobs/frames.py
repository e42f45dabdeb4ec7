"""A job's events as Server-Sent Events (WHATWG HTML section 9.2), without I/O.

An event's id is its log entry's, ``<attempt>-<seq>``. Where one entry makes several events, all but the last
have ``<attempt>-<seq>.<n>``: n events of that entry were delivered. So a reader that resumes anywhere misses
nothing and sees nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from api.http.errors import invalid
from api.openai.frames import MERGE_ABOVE, Texts
from broker.events.hub import EventId, parse_cursor
from jobs.stream_chunks import Frames, Head, decode

PING = b": ping\n\n"


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a reader has seen: every entry up to ``attempt-seq``, and ``part`` events of the next one."""

    attempt: int = 0
    seq: int = 0
    part: int = 0

    @property
    def after(self) -> EventId:
        """The last entry that was seen whole."""
        return f"{self.attempt}-{self.seq}"


def read_cursor(text: str) -> Cursor:
    """Read an event id that a client sends back.

    Raises:
        ApiError: 400, no event had this id.
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
        raise invalid(f"not an event id of this stream: {text[:64]!r}", "Last-Event-ID") from None
    return Cursor(attempt, seq - 1, int(part))


class EventFrames:
    """Renders one reader's events.

    Args:
        job_id: the job.
        cursor: where the reader goes on.
    """

    def __init__(self, job_id: str, cursor: Cursor) -> None:
        self._job_id = job_id
        self._skip_in = f"{cursor.attempt}-{cursor.seq + 1}" if cursor.part else ""
        self._skip = cursor.part
        self._texts = Texts()

    def take_head(self, payload: str) -> None:
        """Give the head of the attempt that a resumed reader is in the midst of."""
        if payload[0] == "h":
            head = decode(payload)
            if isinstance(head, Head):
                self._texts.take_head(head)

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Return what to write for these entries; the end entry is left to :meth:`end`."""
        out: list[bytes] = []
        merge = sum(payload[0] == "t" for _, payload in events) > MERGE_ABOVE
        run: list[str] = []
        run_id = ""
        for eid, payload in events:
            if payload[0] == "t" and merge:
                run.append(payload[1:])
                run_id = eid
                continue
            if run:
                out.append(frame(run_id, "chunk", self._texts.frame("".join(run))))
                run = []
            self._take(eid, payload, out)
        if run:
            out.append(frame(run_id, "chunk", self._texts.frame("".join(run))))
        return b"".join(out)

    def _take(self, eid: EventId, payload: str, out: list[bytes]) -> None:
        kind = payload[0]
        if kind == "t":
            out.append(frame(eid, "chunk", self._texts.frame(payload[1:])))
        elif kind == "s":
            out.append(self._state(eid, payload))
        elif kind in "hj":
            chunk = decode(payload)
            if isinstance(chunk, Head):
                self._texts.take_head(chunk)
                self._chunks(eid, chunk.first, out)
            elif isinstance(chunk, Frames):
                self._chunks(eid, chunk.frames, out)

    def _chunks(self, eid: EventId, frames: Sequence[str], out: list[bytes]) -> None:
        skip = self._skip if eid == self._skip_in else 0
        for number, data in enumerate(frames, 1):
            if number > skip:
                part_id = eid if number == len(frames) else f"{eid}.{number}"
                out.append(frame(part_id, "chunk", data.encode()))

    def _state(self, eid: EventId, payload: str) -> bytes:
        said = json.loads(payload[1:])
        data = {"id": self._job_id, "state": said["state"], "attempt": said["attempt"]}
        name = said["state"]
        if name == "running":
            data["worker"] = said.get("worker")
            if said["attempt"] > 1:
                name = "restarted"
        return frame(eid, name, msgspec.json.encode(data))


def frame(eid: EventId, event: str, data: bytes) -> bytes:
    """Return one event; ``data`` has no raw newline, as no compact JSON has."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (eid.encode(), event.encode(), data)
