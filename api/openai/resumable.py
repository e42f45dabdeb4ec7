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
from api.openai.event_frames import ENDS, ended, error_event, rendered
from api.openai.frames import DONE
from api.openai.message_frames import MESSAGE_ENDS
from broker.endings import Ending, decode_ending
from broker.events.inbox import EventId
from jobs.anthropic import error_body
from jobs.endpoints import ENDPOINTS, RESPONSES
from jobs.states import JobState
from jobs.stream_chunks import TEXT_KINDS


class _Event(msgspec.Struct):
    type: str = "message"


_event = msgspec.json.Decoder(_Event).decode

_ENDS = ENDS | MESSAGE_ENDS


class ResumableStream:
    """One reader's stream.

    Args:
        endpoint: the job's.
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
        endpoint: str,
        shown: Mapping[str, Any] = NOTHING,
        after: int = 0,
        attempt: int = 0,
        *,
        headless: bool = False,
    ) -> None:
        self.ending: Ending | None = None
        self.error_code: str | None = None
        self._empty = True
        self._job_id, self._shown, self._endpoint = job_id, shown, endpoint
        self._chunked = ENDPOINTS[endpoint].streams == "chunks"
        self._after, self._from, self._attempt = after, attempt, 0
        self._headless = headless
        self._number = 0
        self._seen = after > 0
        self._texts = Texts()
        self._waiting: list[str] = []
        self._kind = ""
        self._held: list[tuple[int, str]] = []
        self._last = ""

    @property
    def over(self) -> bool:
        """Whether the stream has ended for its client."""
        return self.error_code is not None or self.ending is not None

    def feed(self, events: Sequence[tuple[EventId, str]]) -> bytes:
        """Take a batch of log entries; return the bytes to write now."""
        out: list[bytes] = []
        merge = sum(payload[0] in TEXT_KINDS for _, payload in events) > MERGE_ABOVE
        for eid, payload in events:
            self._enter(int(eid.partition("-")[0]), out)
            if self.over:
                break
            if payload[0] in TEXT_KINDS:
                self._text(payload, out)
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
        self._held, self._last, self._texts = [], "", Texts()
        if attempt >= self._from and self._seen and self._number > self._after:
            advice = f"resume with starting_after={self._number} for the next attempt from its start"
            self._error(worker_lost(advice), out)

    def _wanted(self, number: int) -> bool:
        return number > self._after and self._attempt >= self._from

    def _frame(self, frame: str, out: list[bytes]) -> None:
        closing_one = closes(frame) if self._chunked else _event(frame).type in _ENDS
        if self._chunked or not closing_one:
            self._release(out)
        self._number += 1
        self._empty, self._last = False, frame
        if closing_one:
            self._held.append((self._number, frame))
        else:
            self._write(self._number, frame, out)

    def _text(self, payload: str, out: list[bytes]) -> None:
        """Let a text wait, with those of its kind."""
        self._release(out)
        if payload[0] != self._kind:
            self._flush(out)
            self._kind = payload[0]
        self._number += 1
        self._empty, self._last = False, ""
        if self._wanted(self._number):
            self._waiting.append(payload[1:])

    def _flush(self, out: list[bytes]) -> None:
        """Write the texts that wait, as one chunk."""
        if self._waiting:
            payload, self._waiting = self._kind + "".join(self._waiting), []
            self._write(self._number, self._texts.frame(payload).decode(), out)

    def _release(self, out: list[bytes]) -> None:
        """Write what was held back: the end has not come yet."""
        held, self._held = self._held, []
        for number, frame in held:
            self._write(number, frame, out)

    def _finish(self, ending: Ending, out: list[bytes]) -> None:
        succeeded = ending.state is JobState.SUCCEEDED
        silent = self._headless and not self._seen and (self._empty or not succeeded)
        if silent:
            return
        if not succeeded:
            if self._chunked:
                self._release(out)
            self._number += 1
            if self._number > self._after:
                self._error(ended_without_result(self._job_id, ending), out)
        elif self._empty:
            self._error(
                ApiError(410, f"the stream of {self._job_id} is no longer stored", "result_gone"), out
            )
        elif self._chunked:
            self._close(ending, out)
        else:
            for number, event in self._held:
                last = ended(event) if self._endpoint == RESPONSES else event
                self._write(number, last, out, ending.timings.finished_ms)

    def _close(self, ending: Ending, out: list[bytes]) -> None:
        """Write the chunk that closes a stream of chunks, and its end."""
        if not self._held:
            self._number += 1
            template = self._last or self._texts.frame("t").decode()
            self._held.append((self._number, empty_like(template)))
        number, frame = self._held[-1]
        self._write(number, closing(frame, self._job_id, ending, self._shown), out)
        self._number += 1
        if self._number > self._after:
            out.append(b"id: %d\n%b" % (self._number, DONE))

    def _write(self, number: int, frame: str, out: list[bytes], finished_ms: int | None = None) -> None:
        if not self._wanted(number):
            return
        self._seen = True
        if self._chunked:
            out.append(b"id: %d\ndata: %b\n\n" % (number, frame.encode()))
            return
        data = event_with_shown(frame, self._shown, finished_ms)
        out.append(b"id: %d\n%b" % (number, rendered(_event(frame).type, data.encode())))

    def _error(self, error: ApiError, out: list[bytes], *, numbered: bool = True) -> None:
        self.error_code = error.code
        head = b"id: %d\n" % self._number if numbered else b""
        if self._chunked:
            event = b"data: %b\n\n" % error.body()
        elif self._endpoint == RESPONSES:
            event = error_event(error, self._number)
        else:
            event = rendered("error", error_body(error.status, error.message))
        out.append(head + event)
