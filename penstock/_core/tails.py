"""Reading a streamed answer over dropped connections, without I/O: the pattern, and the tails of files and batches."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from penstock._core.replies import Reply
from penstock._core.requests import Request, event_stream, segment
from penstock._core.retry import Retries, RetryPolicy, is_transient
from penstock._core.sse import ServerSentEvent, SSEParser
from penstock.batch_models import BatchEvent
from penstock.errors import APIConnectionError, APIResponseError, PenstockError

T = TypeVar("T")

STEADY_S = 5.0
"""A connection that lasted this long with pings was in order although it brought nothing new."""


class Tail(ABC, Generic[T]):
    """A stream as :func:`penstock._core.flows.read` reads it: open, feed until ``done``, reopen after a drop.

    Args:
        policy: how many connections in a row may bring nothing, and the pauses between them.
        what: what is read, for the message.

    Attributes:
        done: everything has been read.
        progress: the present connection brought something new.
    """

    def __init__(self, policy: RetryPolicy, what: str) -> None:
        self.done = False
        self.progress = False
        self.policy = policy
        self._what = what
        self._retries = Retries(policy, what)
        self._connected_at = policy.clock()

    def connecting(self) -> None:
        """Take note that a new connection begins."""
        self._connected_at = self.policy.clock()

    @abstractmethod
    def request(self) -> Request:
        """Return the request of the next connection."""

    @abstractmethod
    def opened(self, head: Reply) -> bool:
        """Take an answer's status and headers; return whether its body is the stream."""

    @abstractmethod
    def feed(self, data: bytes) -> list[T]:
        """Take bytes of the present connection and return what to deliver."""

    def ended(self) -> None:
        """Take note that the present connection ended in order."""

    @property
    def alive(self) -> bool:
        """Whether the present connection brought a sign of life, such as a ping."""
        return False

    def dropped(self, error: PenstockError | None) -> float:
        """Return the pause in seconds before the next connection.

        Args:
            error: what ended the connection or kept it from opening; None if it ended in order, but too early.

        Raises:
            PenstockError: ``error``, if another try cannot help or too many in a row brought nothing.
        """
        problem = error or APIConnectionError(f"{self._what} ended too early")
        if not is_transient(problem):
            raise problem
        # A ping alone proves little: a proxy may send one and close, again and again.
        steady = self.alive and self.policy.clock() - self._connected_at >= STEADY_S
        if not (self.progress or steady):
            return self._retries.pause_s(problem)
        self._retries.reset()
        delay_s = self._retries.pause_s(problem, report=False)
        self._retries.reset()
        self.progress = False
        return delay_s


class EventTail(Tail[T]):
    """The common part of event streams: server-sent events with JSON objects as data."""

    def __init__(self, name: str, policy: RetryPolicy, cursor: str = "") -> None:
        super().__init__(policy, f"the event stream of {name}")
        self.parser = SSEParser(cursor)

    @property
    def alive(self) -> bool:
        """Whether a ping came."""
        return self.parser.comments > 0

    def opened(self, head: Reply) -> bool:
        """Return whether this is an event stream."""
        return head.status == 200 and "text/event-stream" in head.headers.get("content-type", "")

    @staticmethod
    def fields(raw: ServerSentEvent) -> dict[str, Any]:
        """Return an event's data. Raises APIResponseError if it is not a JSON object."""
        try:
            data = json.loads(raw.data)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise APIResponseError(f"the data of event {raw.event!r} ({raw.id}) is not a JSON object")
        return data


class BatchTail(EventTail[BatchEvent]):
    """A batch's events. Each one is a whole snapshot, so a new connection needs no cursor."""

    def __init__(self, batch_id: str, policy: RetryPolicy) -> None:
        super().__init__(batch_id, policy)
        self._last: tuple[str, dict[str, Any]] | None = None
        self._path = "/v1/batches/" + segment(batch_id, "the batch's id") + "/events"

    def request(self) -> Request:
        """Return the request of the next connection."""
        self.parser = SSEParser()
        return event_stream(self._path, "")

    def feed(self, data: bytes) -> list[BatchEvent]:
        """Take bytes and return the events they complete. Raises APIResponseError if one is unreadable."""
        events = []
        for raw in self.parser.feed(data):
            event = BatchEvent(id=raw.id, type=raw.event, data=self.fields(raw))
            snapshot = (event.type, event.data)
            self.progress = self.progress or snapshot != self._last  # every connection begins with one
            self._last = snapshot
            events.append(event)
            if event.terminal:
                self.done = True
                break
        return events


class Download(Tail[bytes]):
    """A file's content from a byte on. After a drop it continues at the first missing byte.

    Attributes:
        offset: bytes of the file that were delivered or skipped.
    """

    def __init__(self, file_id: str, offset: int, policy: RetryPolicy) -> None:
        super().__init__(policy, f"the content of {file_id}")
        self.offset = offset
        self._path = "/v1/files/" + segment(file_id, "the file's id") + "/content"
        self._skip = 0

    def request(self) -> Request:
        """Return the request of the missing bytes."""
        # A range of a compressed body would be a range of something else.
        headers = {"accept": "*/*", "accept-encoding": "identity"}
        if self.offset:
            headers["range"] = f"bytes={self.offset}-"
        return Request("GET", self._path, headers=headers)

    def opened(self, head: Reply) -> bool:
        """Return whether the content follows. A server without ranges sends it all; the known bytes are skipped."""
        if (
            head.status == 416
            and self.offset
            and head.headers.get("content-range") == f"bytes */{self.offset}"
        ):
            self.done = True  # the drop came after the last byte
            return True
        self._skip = self.offset if head.status == 200 else 0
        ours = head.headers.get("content-range", "").startswith(f"bytes {self.offset}-")
        return head.status == 200 or (head.status == 206 and ours)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes and return those that are new."""
        fresh = data[self._skip :]
        self._skip -= len(data) - len(fresh)
        self.offset += len(fresh)
        self.progress = self.progress or bool(fresh)
        return [fresh] if fresh else []

    def ended(self) -> None:
        """An end in order means that the content is complete."""
        self.done = True
