"""Reading a streamed answer across dropped connections, without I/O: the shape, and what files and batches need."""

from __future__ import annotations

import json
from typing import Protocol, TypeVar

from penstock._core import batch_protocol as batch_protocol
from penstock._core.protocol import Reply, Request
from penstock._core.retry import RetryPolicy, is_transient
from penstock._core.sse import SSEParser
from penstock.batch_models import BatchEvent
from penstock.errors import APIConnectionError, APIResponseError, PenstockError

T = TypeVar("T")


class Tail(Protocol[T]):
    """What a driver asks while it reads: it opens, feeds until ``done``, and where that ends early, asks again."""

    @property
    def done(self) -> bool:
        """Whether everything has been read."""

    def request(self) -> Request:
        """Return the request of the next connection."""

    def opened(self, head: Reply) -> bool:
        """Take an answer's status and headers; return whether it is what was asked for."""

    def feed(self, data: bytes) -> list[T]:
        """Take bytes of the present connection and return what to deliver."""

    def ended(self) -> None:
        """Take it that the present connection came to an orderly end."""

    def dropped(self, error: PenstockError | None) -> float:
        """Return the seconds to pause before the next connection, or raise what makes one pointless."""


class Patience:
    """Counts the connections in a row that brought nothing.

    Args:
        policy: how many of them are borne, and the pauses between them.
        what: what is read, for the message.
    """

    def __init__(self, policy: RetryPolicy, what: str) -> None:
        self._policy = policy
        self._what = what
        self._failures = 0
        self.progress = False

    def pause_s(self, error: PenstockError | None, *, alive: bool = False) -> float:
        """Return the pause after a connection that ended early; ``alive``: it carried at least a sign of life.

        Raises:
            PenstockError: ``error``, where another try cannot help or too many in a row brought nothing.
        """
        problem = error or APIConnectionError(f"{self._what} ended too early")
        if not is_transient(problem):
            raise problem
        if self.progress:
            self._failures = 0
        elif not alive:
            self._failures += 1
        delay_s = self._policy.delay_s(problem, max(self._failures - 1, 0))
        if delay_s is None:
            raise problem
        self.progress = False
        return delay_s


class BatchTail:
    """A batch's events. They are snapshots: after a drop the next one says it all, so there is no cursor."""

    def __init__(self, batch_id: str, policy: RetryPolicy) -> None:
        self.done = False
        self._batch_id = batch_id
        self._parser = SSEParser()
        self._patience = Patience(policy, f"the event stream of {batch_id}")

    def request(self) -> Request:
        """Return the request of the next connection."""
        self._parser = SSEParser()
        return batch_protocol.events(self._batch_id, "")

    def opened(self, head: Reply) -> bool:
        """Whether this is an event stream."""
        return head.status == 200 and "text/event-stream" in head.headers.get("content-type", "")

    def feed(self, data: bytes) -> list[BatchEvent]:
        """Take bytes; return the events they complete.

        Raises:
            APIResponseError: an event's data is not a JSON object.
        """
        events = []
        for raw in self._parser.feed(data):
            try:
                fields = json.loads(raw.data)
            except ValueError:
                fields = None
            if not isinstance(fields, dict):
                msg = f"the data of event {raw.event!r} of {self._batch_id} is not a JSON object"
                raise APIResponseError(msg)
            event = BatchEvent(id=raw.id, type=raw.event, data=fields)
            self._patience.progress = True
            events.append(event)
            if event.terminal:
                self.done = True
                break
        return events

    def ended(self) -> None:
        """Take it that the connection has ended: only a final event makes the end."""

    def dropped(self, error: PenstockError | None) -> float:
        """See :meth:`Patience.pause_s`."""
        return self._patience.pause_s(error, alive=self._parser.comments > 0)


class Download:
    """A file's content, from a byte on; after a drop it goes on with the byte that is missing.

    Attributes:
        offset: bytes of the file that were delivered or skipped.
        done: the last byte was delivered.
    """

    def __init__(self, file_id: str, offset: int, policy: RetryPolicy) -> None:
        self.offset = offset
        self.done = False
        self._file_id = file_id
        self._skip = 0
        self._patience = Patience(policy, f"the content of {file_id}")

    def request(self) -> Request:
        """Return the request of what is missing."""
        return batch_protocol.content(self._file_id, self.offset)

    def opened(self, head: Reply) -> bool:
        """Whether the content follows. A server that knows no ranges sends it all, and what is known is skipped."""
        if (
            head.status == 416
            and self.offset
            and head.headers.get("content-range") == f"bytes */{self.offset}"
        ):
            self.done = True  # the drop came behind the last byte
            return True
        self._skip = self.offset if head.status == 200 else 0
        ours = head.headers.get("content-range", "").startswith(f"bytes {self.offset}-")
        return head.status == 200 or (head.status == 206 and ours)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes and return those that are new."""
        fresh = data[self._skip :]
        self._skip -= len(data) - len(fresh)
        self.offset += len(fresh)
        self._patience.progress = self._patience.progress or bool(fresh)
        return [fresh] if fresh else []

    def ended(self) -> None:
        """Take it that the connection came to an orderly end: the content is complete."""
        self.done = True

    def dropped(self, error: PenstockError | None) -> float:
        """See :meth:`Patience.pause_s`."""
        return self._patience.pause_s(error)
