"""From a job's log entries to a stream that can be resumed: each event has a number, its SSE ``id``. Without I/O.

Everything is counted that the log has, over all attempts: each chunk or event, each change to a further attempt, and then
what ends the stream. So the numbers only rise, and are the same for every reader, however the entries come. A reader who
resumes has the log read from its start; what it has is counted, and not sent.

A reader who has seen part of an attempt that was lost gets an error, which ends the stream. The error has a number too:
whoever resumes after it gets the next attempt from its start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from api.http.errors import ApiError
from api.http.job_end import ended_without_result, worker_lost
from api.http.shown import NOTHING, event_with_shown
from api.http.sse import MERGE_ABOVE, Texts
from api.openai.closing import closes, closing, empty_like
from broker.events.inbox import EventId
from broker.records import Ending, decode_ending
from jobs.endpoints import StreamForm
from jobs.states import JobState


class _Event(msgspec.Struct):
    type: str = "message"


_event = msgspec.json.Decoder(_Event).decode


class ResumableStream:
    """One reader's stream.

    Args:
        form: of its endpoint.
        shown: see :attr:`jobs.model.JobSpec.shown`.
        after: the number of the reader's last event; 0: it has none.
        headless: the reader has no head yet, so whoever asks answers with an end before the first event.
        attempt: the first one that is not known to be lost. Of those before it a new reader gets nothing.

    Attributes:
        ending: how the job ended; None before that.
        error_code: the code of an error that was written. It ends the stream, whatever the job does.
    """

    def __init__(
        self,
        job_id: str,
        form: StreamForm,
        shown: Mapping[str, Any] = NOTHING,
        after: int = 0,
        attempt: int = 0,
        *,
        headless: bool = False,
    ) -> None:
        self.ending: Ending | None = None
        self.error_code: str | None = None
        self._empty = True
        self._job_id, self._shown, self._chunked = job_id, shown, form == "chunks"
        self._after, self._from, self._attempt = after, attempt, 0
        self._headless = headless
        self._number = 0
        self._seen = after > 0
        self._texts = Texts()
        self._waiting: list[str] = []
        self._held: tuple[int, str] | None = None
        self._last = ""

    @property
    def over(self) -> bool:
        """Whether the stream has ended for its client."""
        return self.error_code is not None or self.ending is not None

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Take a batch of log entries; return the bytes to write now."""
        out: list[bytes] = []
        merge = sum(payload[0] == "t" for _, payload in events) > MERGE_ABOVE
        for eid, payload in events:
            self._enter(int(eid.partition("-")[0]), out)
            if self.over:
                break
            if payload[0] == "t":
                self._release(out)
                self._number += 1
                self._empty, self._last = False, ""
                if self._wanted(self._number):
                    self._waiting.append(payload[1:])
                if not merge:
                    self._flush(out)
                continue
            self._flush(out)
            if payload[0] in "hj":
                for frame in self._texts.read(payload):
                    self._frame(frame, out)
            elif payload[0] == "e":
                self.ending = decode_ending(payload)
                self._finish(self.ending, out)
        self._flush(out)
        return b"".join(out)

    def fail(self, error: ApiError) -> bytes:
        """End the stream with an error; return the bytes to write. A reader may resume after what it had before."""
        out: list[bytes] = []
        self._error(error, out, numbered=False)
        return b"".join(out)

    def _enter(self, attempt: int, out: list[bytes]) -> None:
        """Note the attempt of an entry. If it is a further one, what came before is void."""
        if attempt <= self._attempt:
            return
        first, self._attempt = self._attempt == 0, attempt
        if first:
            return
        self._flush(out)
        self._number += 1
        self._held, self._last, self._texts = None, "", Texts()
        if attempt >= self._from and self._seen and self._number > self._after:
            advice = f"resume with starting_after={self._number} for the next attempt from its start"
            self._error(worker_lost(advice), out)

    def _wanted(self, number: int) -> bool:
        return number > self._after and self._attempt >= self._from

    def _frame(self, frame: str, out: list[bytes]) -> None:
        self._release(out)
        self._number += 1
        self._empty, self._last = False, frame
        if self._chunked and closes(frame):
            self._held = self._number, frame
        else:
            self._write(self._number, frame, out)

    def _flush(self, out: list[bytes]) -> None:
        """Write the texts that wait, as one chunk."""
        if self._waiting:
            text, self._waiting = "".join(self._waiting), []
            self._write(self._number, self._texts.frame(text).decode(), out)

    def _release(self, out: list[bytes]) -> None:
        """Write the chunk that was held back: the end has not come yet."""
        if self._held is not None:
            (number, frame), self._held = self._held, None
            self._write(number, frame, out)

    def _finish(self, ending: Ending, out: list[bytes]) -> None:
        silent = self._headless and not self._seen and self._held is None
        if silent and (self._empty or ending.state is not JobState.SUCCEEDED):
            return
        if ending.state is not JobState.SUCCEEDED:
            self._release(out)
            self._number += 1
            if self._number > self._after:
                self._error(ended_without_result(self._job_id, ending), out)
        elif self._empty:
            self._error(
                ApiError(410, f"the stream of {self._job_id} is no longer stored", "result_gone"), out
            )
        elif self._chunked:
            if self._held is None:
                self._number += 1
                self._held = self._number, empty_like(self._last or self._texts.frame("").decode())
            number, frame = self._held
            self._write(number, closing(frame, self._job_id, ending, self._shown), out)
            self._number += 1
            if self._number > self._after:
                out.append(b"id: %d\ndata: [DONE]\n\n" % self._number)
        self._held = None

    def _write(self, number: int, frame: str, out: list[bytes]) -> None:
        if not self._wanted(number):
            return
        self._seen = True
        if self._chunked:
            out.append(b"id: %d\ndata: %b\n\n" % (number, frame.encode()))
            return
        data = event_with_shown(frame, self._shown)
        kind = _event(frame).type
        out.append(b"id: %d\nevent: %b\ndata: %b\n\n" % (number, kind.encode(), data.encode()))

    def _error(self, error: ApiError, out: list[bytes], *, numbered: bool = True) -> None:
        self.error_code = error.code
        head = b"id: %d\n" % self._number if numbered else b""
        if self._chunked:
            out.append(b"%bdata: %b\n\n" % (head, error.body()))
            return
        facts = {"code": error.code, "message": error.message, "param": error.param}
        data = msgspec.json.encode({"type": "error", **facts, "error": {"type": error.type, **facts}})
        out.append(b"%bevent: error\ndata: %b\n\n" % (head, data))
