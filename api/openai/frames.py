"""From a job's log entries to OpenAI stream frames, without I/O.

The hottest loop of the api: one payload for each token and stream. So texts are put between the head's two halves
unchanged, frames are passed on unchanged, and only the closing frame of a stream is parsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from api.http.errors import ApiError
from api.http.job_end import ended_without_result, worker_lost
from api.http.shown import NOTHING
from api.http.sse import MERGE_ABOVE, Texts, merged
from api.openai.closing import closes, closing, empty_like
from broker.endings import Ending, decode_ending
from broker.events.inbox import EventId
from jobs.states import JobState
from jobs.stream_chunks import TEXT_KINDS

DONE = b"data: [DONE]\n\n"


class OpenAIStream:
    """One caller's stream.

    The closing frame is held back until the job's end is known, which adds ``usage``, ``penstock`` and what the job shows.

    Attributes:
        ending: how the job ended; None before that.
        error_code: the code of an error frame that was written. It ends the stream, whatever the job does.
    """

    def __init__(self, job_id: str, shown: Mapping[str, Any] = NOTHING) -> None:
        self.ending: Ending | None = None
        self.error_code: str | None = None
        self._job_id = job_id
        self._shown = shown
        self._texts = Texts()
        self._held: str | None = None
        self._last = ""
        self._sent = False

    @property
    def over(self) -> bool:
        """Whether the stream has ended for its client."""
        return self.error_code is not None or self.ending is not None

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Take a batch of log entries; return the bytes to write now."""
        out: list[bytes] = []
        if len(events) > MERGE_ABOVE:
            events = merged(events)
        for _, payload in events:
            if payload[0] in TEXT_KINDS:
                self._release(out)
                out.append(b"data: %b\n\n" % self._texts.frame(payload))
                continue
            self._take(payload[0], payload, out)
            if self.over:
                break
        self._sent = self._sent or bool(out)
        return b"".join(out)

    def _take(self, kind: str, payload: str, out: list[bytes]) -> None:
        if kind in "hj":
            self._frames(self._texts.read(payload), out)
        elif kind == "s":
            self._restart(payload, out)
        elif kind == "e":
            self.ending = decode_ending(payload)
            self._finish(self.ending, out)

    def _frames(self, frames: Sequence[str], out: list[bytes]) -> None:
        for frame in frames:
            self._release(out)
            if closes(frame):
                self._held = frame
            else:
                self._write(frame, out)

    def _restart(self, payload: str, out: list[bytes]) -> None:
        """Forget the frames of an earlier attempt; end the stream with an error if the client has seen some of them."""
        if '"running"' not in payload:
            return
        if self._sent or out:
            self._error(worker_lost("retry the request"), out)
        self._held = None
        self._texts = Texts()

    def _finish(self, ending: Ending, out: list[bytes]) -> None:
        if ending.state is JobState.SUCCEEDED:
            if self._held is not None:
                self._write(self._closing(self._held, ending), out)
            elif self._last:
                self._write(self._closing(empty_like(self._last), ending), out)
            if self._sent or out:
                out.append(DONE)
        elif self._sent or out:
            self._release(out)
            self._error(ended_without_result(self._job_id, ending), out)
        self._held = None

    def _closing(self, frame: str, ending: Ending) -> str:
        return closing(frame, self._job_id, ending, self._shown)

    def fail(self, error: ApiError) -> bytes:
        """End the stream with an error; return the bytes to write."""
        out: list[bytes] = []
        self._release(out)
        self._error(error, out)
        return b"".join(out)

    def _error(self, error: ApiError, out: list[bytes]) -> None:
        self.error_code = error.code
        out.append(b"data: %b\n\n" % error.body())

    def _release(self, out: list[bytes]) -> None:
        """Write the frame that was held back: the end has not come yet."""
        if self._held is not None:
            held, self._held = self._held, None
            self._write(held, out)

    def _write(self, frame: str, out: list[bytes]) -> None:
        self._last = frame
        out.append(b"data: %b\n\n" % frame.encode())
