"""From a job's log entries to OpenAI stream frames, without I/O.

The hottest loop of the api: one payload per token and stream. So texts are put between the head's two halves
as they are, frames are passed on as they are, and only the closing frame of a stream is ever parsed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from api.http.errors import ApiError
from api.http.job_end import ended_without_result, stream_facts, usage_json
from broker.events.hub import EventId
from broker.records import Ending, decode_ending
from jobs.failures import FAILURES, FailureCode
from jobs.states import JobState
from jobs.stream_chunks import Frames, Head, decode

MERGE_ABOVE = 8
"""When more texts than this wait for a client, it gets them as one frame."""

DONE = b"data: [DONE]\n\n"

# JSON strings as pydantic's model_dump_json writes them: raw UTF-8, escapes only where JSON demands them.
json_string = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])

_CLOSING = re.compile(r'"finish_reason"\s*:\s*"|"choices"\s*:\s*\[\s*\]')
"""Found in a chunk that closes a stream (or, with several choices, one of them), and in no other: inside a
JSON string these quotes would be escaped."""


class Texts:
    """Renders ``t`` payloads: the stream's head, once known, and what to put around a text."""

    def __init__(self) -> None:
        self._pre = b""
        self._post = b""
        self.known = False

    def take_head(self, head: Head) -> None:
        """Remember a stream's head."""
        self._pre = head.pre.encode()
        self._post = head.post.encode()
        self.known = True

    def frame(self, text: str) -> bytes:
        """Return a text's chunk as JSON.

        Raises:
            ValueError: there was no head.
        """
        if not self.known:
            raise ValueError("a text came before its stream's head")
        return self._pre + json_string(text) + self._post


class OpenAIStream:
    """One caller's stream.

    The closing frame is held back until the job's end is known, which adds ``usage`` and ``penstock`` to it.

    Attributes:
        ending: how the job ended; None before that.
        error_code: an error frame with this code was written: the stream is over, whatever the job does.
    """

    def __init__(self, job_id: str) -> None:
        self.ending: Ending | None = None
        self.error_code: str | None = None
        self._job_id = job_id
        self._texts = Texts()
        self._held: str | None = None
        self._last = ""
        self._sent = False

    @property
    def over(self) -> bool:
        """Whether the client has been told all."""
        return self.error_code is not None or self.ending is not None

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Take a batch of log entries; return what to write now, empty where there is nothing to say yet."""
        out: list[bytes] = []
        merge = len(events) > MERGE_ABOVE and sum(payload[0] == "t" for _, payload in events) > MERGE_ABOVE
        run: list[str] = []
        for _, payload in events:
            kind = payload[0]
            if kind == "t":
                if merge:
                    run.append(payload[1:])
                else:
                    self._release(out)
                    out.append(b"data: %b\n\n" % self._texts.frame(payload[1:]))
                continue
            if run:
                self._release(out)
                out.append(b"data: %b\n\n" % self._texts.frame("".join(run)))
                run = []
            self._take(kind, payload, out)
            if self.over:
                break
        if run:
            self._release(out)
            out.append(b"data: %b\n\n" % self._texts.frame("".join(run)))
        self._sent = self._sent or bool(out)
        return b"".join(out)

    def _take(self, kind: str, payload: str, out: list[bytes]) -> None:
        if kind in "hj":
            chunk = decode(payload)
            if isinstance(chunk, Head):
                self._texts.take_head(chunk)
                self._frames(chunk.first, out)
            elif isinstance(chunk, Frames):
                self._frames(chunk.frames, out)
        elif kind == "s":
            self._restart(payload, out)
        elif kind == "e":
            self.ending = decode_ending(payload)
            self._finish(self.ending, out)

    def _frames(self, frames: Sequence[str], out: list[bytes]) -> None:
        for frame in frames:
            self._release(out)
            if _CLOSING.search(frame):
                self._held = frame
            else:
                self._write(frame, out)

    def _restart(self, payload: str, out: list[bytes]) -> None:
        """Forget what an earlier attempt said, unless the client has seen some of it."""
        if '"running"' not in payload:
            return
        if self._sent or out:
            message = "the worker was lost after part of the answer was sent"
            info = FAILURES[FailureCode.WORKER_LOST]
            self._error(
                ApiError(info.http_status, message, FailureCode.WORKER_LOST, type_=info.error_type), out
            )
        self._held = None
        self._texts = Texts()

    def _finish(self, ending: Ending, out: list[bytes]) -> None:
        if ending.state is JobState.SUCCEEDED:
            if self._held is not None:
                self._write(self._closing(self._held, ending), out)
            elif self._last:
                self._write(self._closing(_empty_like(self._last), ending), out)
            if self._sent or out:
                out.append(DONE)
        elif self._sent or out:
            self._release(out)
            self._error(ended_without_result(self._job_id, ending), out)
        self._held = None

    def _closing(self, frame: str, ending: Ending) -> str:
        """Add ``usage``, where there is none, and ``penstock`` to a chunk; all else stays to the letter."""
        members = _members.decode(frame)
        if bytes(members.get("usage", b"null")) == b"null":
            members["usage"] = msgspec.Raw(msgspec.json.encode(usage_json(ending.usage)))
        members["penstock"] = msgspec.Raw(msgspec.json.encode(stream_facts(self._job_id, ending)))
        return msgspec.json.encode(members).decode()

    def fail(self, error: ApiError) -> bytes:
        """End the stream with an error; return what to write."""
        out: list[bytes] = []
        self._release(out)
        self._error(error, out)
        return b"".join(out)

    def _error(self, error: ApiError, out: list[bytes]) -> None:
        self.error_code = error.code
        out.append(b"data: %b\n\n" % error.body())

    def _release(self, out: list[bytes]) -> None:
        """Write the frame that was held for the end: the end is not yet."""
        if self._held is not None:
            held, self._held = self._held, None
            self._write(held, out)

    def _write(self, frame: str, out: list[bytes]) -> None:
        self._last = frame
        out.append(b"data: %b\n\n" % frame.encode())


def _empty_like(frame: str) -> str:
    """Make a chunk without choices for a stream whose engine sent no closing chunk."""
    members = {k: v for k, v in _members.decode(frame).items() if k in {"id", "object", "created", "model"}}
    members["choices"] = msgspec.Raw(b"[]")
    return msgspec.json.encode(members).decode()
