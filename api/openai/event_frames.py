"""From a job's log entries to the events of a response's stream, without I/O.

The log has the engine's events, each with the engine's ``sequence_number``. The caller who waits gets them with these. An
event that has none, as some upstream servers send it, gets the next number. A background response outlives its attempts, so
its events are counted anew, over all attempts: the same for every reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api.http.errors import ApiError
from api.http.job_end import ended_without_result, worker_lost
from api.http.shown import NOTHING, event_with_shown
from broker.endings import Ending, decode_ending
from broker.events.inbox import EventId
from jobs.states import JobState
from jobs.stream_chunks import Frames, decode

ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
"""The types of events that end a stream: each has the whole response."""


class _Event(msgspec.Struct):
    type: str = "message"
    sequence_number: int | None = None


class _Status(msgspec.Struct):
    status: str = "completed"


_read = msgspec.json.Decoder(_Event).decode
_read_status = msgspec.json.Decoder(_Status).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def rendered(kind: str, event: bytes) -> bytes:
    """Return one event. ``event`` is compact JSON, which has no raw newline."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), event)


def end_type(response: bytes) -> str:
    """Return the type of the event that ends the stream of this response: by its status."""
    kind = f"response.{_read_status(response).status}"
    return kind if kind in ENDS else "response.failed"  # a cancelled one: SDKs know no event for it


def ended(event: str) -> str:
    """Return the engine's event that ends a stream, with the type that its response's status gives it."""
    members = _members(event)
    response = members.get("response")
    if response is None:
        return event
    return _encode(members | {"type": msgspec.Raw(_encode(end_type(bytes(response))))}).decode()


def frames_of(payload: str) -> Sequence[str]:
    """Return the events in a log entry."""
    chunk = decode(payload)
    return chunk.frames if isinstance(chunk, Frames) else ()


class ResponseStream:
    """The stream of a caller who waits, or the same stream read later: with the engine's own numbers.

    The event that ends it is held back until the job's end is known.

    Args:
        shown: see :attr:`jobs.model.JobSpec.shown`.
        after: the number of the reader's last event; -1: it has none.

    Attributes:
        ending: how the job ended; None before that.
        error_code: the code of an error event that was written. It ends the stream, whatever the job does.
        sent: whether the reader has an event of this stream.
    """

    def __init__(self, job_id: str, shown: Mapping[str, Any] = NOTHING, after: int = -1) -> None:
        self.ending: Ending | None = None
        self.error_code: str | None = None
        self.sent = False
        self._job_id, self._shown, self._after = job_id, shown, after
        self._number = -1
        self._held: str | None = None
        self._closed = False

    @property
    def over(self) -> bool:
        """Whether the stream has ended for its client."""
        return self.error_code is not None or self.ending is not None

    @property
    def unsaid(self) -> bool:
        """Whether the job has ended and no event says how: an engine sent none, or the log is gone."""
        return self.ending is not None and self.error_code is None and not self._closed

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Take a batch of log entries; return the bytes to write now."""
        out: list[bytes] = []
        for _, payload in events:
            kind = payload[0]
            if kind == "j":
                for event in frames_of(payload):
                    self._take(event, out)
            elif kind == "s":
                self._restart(payload, out)
            elif kind == "e":
                self.ending = decode_ending(payload)
                self._finish(self.ending, out)
            if self.over:
                break
        return b"".join(out)

    def _take(self, event: str, out: list[bytes]) -> None:
        read = _read(event)
        number = read.sequence_number
        if number is None:
            number = self._number + 1
            event = _encode(_members(event) | {"sequence_number": number}).decode()
        self._number = max(self._number, number)
        if read.type in ENDS:
            self._held = event
        else:
            self._write(read.type, event, number, out)

    def _write(
        self, kind: str, event: str, number: int, out: list[bytes], finished_ms: int | None = None
    ) -> None:
        self.sent = True
        if number > self._after:
            out.append(rendered(kind, event_with_shown(event, self._shown, finished_ms).encode()))

    def _restart(self, payload: str, out: list[bytes]) -> None:
        """Forget the end of an earlier attempt; end the stream with an error if the client has seen some of it."""
        if '"running"' not in payload:
            return
        if self.sent:
            self._error(worker_lost("retry the request"), out)
        else:
            self._number = -1
        self._held = None

    def _finish(self, ending: Ending, out: list[bytes]) -> None:
        if ending.state is not JobState.SUCCEEDED:
            if self.sent:
                self._error(ended_without_result(self._job_id, ending), out)
        elif self._held is not None:
            event = ended(self._held)
            self._write(_read(event).type, event, self._number, out, ending.timings.finished_ms)
            self._closed = True
        self._held = None

    def end(self, response: bytes) -> bytes:
        """Return the last event of a stream that is :attr:`unsaid`. ``response``: as it ended, JSON."""
        return made_event(end_type(response), response, max(self._number, self._after) + 1)

    def fail(self, error: ApiError) -> bytes:
        """End the stream with an error; return the bytes to write."""
        out: list[bytes] = []
        self._error(error, out)
        return b"".join(out)

    def _error(self, error: ApiError, out: list[bytes]) -> None:
        self.error_code = error.code
        out.append(error_event(error, self._number + 1))


def error_event(error: ApiError, number: int) -> bytes:
    """Return the event by which a stream says that it has failed.

    The documented form has the members ``code``, ``message`` and ``param``. OpenAI's servers send them in ``error``, of
    which their SDKs make an exception. So it has both.
    """
    facts = {"code": error.code, "message": error.message, "param": error.param}
    event = {"type": "error", "sequence_number": number, **facts, "error": {"type": error.type, **facts}}
    return rendered("error", _encode(event))


def made_event(kind: str, response: bytes, number: int) -> bytes:
    """Return an event that has a response."""
    event = {"type": kind, "response": msgspec.Raw(response), "sequence_number": number}
    return rendered(kind, _encode(event))


class NumberedStream:
    """The stream of a background response, for any of its readers.

    It begins with ``response.created`` and ``response.queued``, and has ``response.queued`` again whenever an attempt was
    lost. An engine's event that ends a stream counts for nothing: the caller ends it, from the job's record.

    Args:
        queued: the response as it waits, JSON.
        shown: see :attr:`jobs.model.JobSpec.shown`.
        after: the number of the reader's last event; -1: it has none.

    Attributes:
        over: whether the job has ended.
        unsaid: true: no event says how it has ended, so :meth:`end` is next.
    """

    def __init__(self, queued: bytes, shown: Mapping[str, Any], after: int = -1) -> None:
        self.over = False
        self.unsaid = True
        self._queued, self._shown, self._after = queued, shown, after
        self._number = -1
        self._whole = False

    def begin(self) -> bytes:
        """Return the events that are there before the log has any."""
        return self._made("response.created", self._queued) + self._made("response.queued", self._queued)

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Take a batch of log entries; return the bytes to write now."""
        out: list[bytes] = []
        for eid, payload in events:
            kind = payload[0]
            self._whole = self._whole or kind != "e"
            if kind == "j":
                out += [self._counted(event) for event in frames_of(payload)]
            elif kind == "s" and '"queued"' in payload and not eid.startswith("0-"):
                out.append(self._made("response.queued", self._queued))
            elif kind == "e":
                self.over = True
        return b"".join(out)

    def end(self, response: bytes) -> bytes:
        """Return the last event, unless the reader has it. ``response``: as it ended, JSON.

        The log may be gone before the record. Then its events cannot be counted, and any reader gets the end.
        """
        self._number += 1
        if self._whole and self._number <= self._after:
            return b""
        return made_event(end_type(response), response, max(self._number, self._after + 1))

    def fail(self, error: ApiError) -> bytes:
        """End the stream with an error; return the bytes to write."""
        return error_event(error, self._number + 1)

    def _counted(self, event: str) -> bytes:
        kind = _read(event).type
        if kind == "response.created" or kind in ENDS:
            return b""
        self._number += 1
        if self._number <= self._after:
            return b""
        members: dict[str, Any] = dict(_members(event_with_shown(event, self._shown)))
        return rendered(kind, _encode(members | {"sequence_number": self._number}))

    def _made(self, kind: str, response: bytes) -> bytes:
        self._number += 1
        return b"" if self._number <= self._after else made_event(kind, response, self._number)
