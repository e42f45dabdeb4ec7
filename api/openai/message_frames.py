"""From a job's log entries to the events of a stream of Anthropic's Messages, without I/O."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from api.http.errors import ApiError
from api.http.job_end import ended_without_result, worker_lost
from broker.endings import Ending, decode_ending
from broker.events.inbox import EventId
from jobs.anthropic import error_body
from jobs.states import JobState
from jobs.stream_chunks import Frames, decode

MESSAGE_ENDS = frozenset({"message_delta", "message_stop"})
"""The types of events that end a stream."""


class _Event(msgspec.Struct):
    type: str


_read = msgspec.json.Decoder(_Event).decode


class MessageStream:
    """One caller's stream; the interface is that of :class:`api.openai.frames.OpenAIStream`.

    The events that close it are held back until the job's end is known.

    Attributes:
        ending: how the job ended; None before that.
        error_code: the code of an error event that was written. It ends the stream, whatever the job does.
    """

    def __init__(self, job_id: str) -> None:
        self.ending: Ending | None = None
        self.error_code: str | None = None
        self._job_id = job_id
        self._held: list[bytes] = []
        self._sent = False

    @property
    def over(self) -> bool:
        """Whether the stream has ended for its client."""
        return self.error_code is not None or self.ending is not None

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Take a batch of log entries; return the bytes to write now."""
        out: list[bytes] = []
        for _, payload in events:
            if payload[0] == "j":
                self._frames(payload, out)
            elif payload[0] == "s":
                self._restart(payload, out)
            elif payload[0] == "e":
                self.ending = decode_ending(payload)
                self._finish(self.ending, out)
            if self.over:
                break
        return b"".join(out)

    def _frames(self, payload: str, out: list[bytes]) -> None:
        chunk = decode(payload)
        for frame in chunk.frames if isinstance(chunk, Frames) else ():
            kind = _read(frame).type
            event = _rendered(kind, frame.encode())
            if kind in MESSAGE_ENDS:
                self._held.append(event)
            else:
                self._sent = True
                out.append(event)

    def _restart(self, payload: str, out: list[bytes]) -> None:
        """Forget the end of an earlier attempt; end the stream with an error if the client has seen some of it."""
        if '"running"' not in payload:
            return
        self._held.clear()
        if self._sent:
            self._error(worker_lost("retry the request"), out)

    def _finish(self, ending: Ending, out: list[bytes]) -> None:
        if ending.state is JobState.SUCCEEDED:
            out += self._held
        elif self._sent:
            self._error(ended_without_result(self._job_id, ending), out)
        self._held.clear()

    def fail(self, error: ApiError) -> bytes:
        """End the stream with an error; return the bytes to write."""
        out: list[bytes] = []
        self._error(error, out)
        return b"".join(out)

    def _error(self, error: ApiError, out: list[bytes]) -> None:
        self.error_code = error.code
        out.append(_rendered("error", error_body(error.status, error.message)))


def _rendered(kind: str, event: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), event)
