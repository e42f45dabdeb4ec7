"""A Server-Sent Events parser without I/O: bytes in, events out, however they were cut.

Follows the WHATWG HTML standard, section 9.2.6 "Interpreting an event stream".
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

# Only these three end a line; str.splitlines would also split at U+2028 and others that JSON may contain raw.
_LINE_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One dispatched event.

    Attributes:
        event: its type, ``message`` where the stream named none.
        data: its data lines joined by newlines.
        id: the last event id seen so far, its own or an earlier event's; empty where there is none.
    """

    event: str
    data: str
    id: str


class SSEParser:
    """Parses one stream. Make a new one for every connection and give it the cursor of the last.

    Attributes:
        last_id: the cursor to resume behind, as of the last complete event.
        retry_ms: the reconnection time the server asked for; None where it did not.
        comments: number of comment lines so far: a sign of life on an idle stream.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_ms: int | None = None
        self.comments = 0
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._partial: list[str] = []
        self._after_cr = False
        self._id = last_id
        self._event = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next bytes, in any cut, and return the events they complete.

        An event is complete at its blank line; one that the end of the stream cuts off is never returned.
        """
        text = self._decoder.decode(data)
        if not text:
            return []
        if self._after_cr and text[0] == "\n":  # the second half of a CRLF whose CR ended the last piece
            text = text[1:]
            self._after_cr = False
            if not text:
                return []
        self._after_cr = text[-1] == "\r"
        head, *lines = _LINE_END.split(text)
        self._partial.append(head)
        events = []
        for line in lines:
            event = self._line("".join(self._partial))
            self._partial = [line]
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        if line[0] == ":":
            self.comments += 1
            return None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value)
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_id = self._id
        event, data = self._event, self._data
        self._event, self._data = "", []
        if not data:
            return None
        return ServerSentEvent(event or "message", "\n".join(data), self.last_id)
