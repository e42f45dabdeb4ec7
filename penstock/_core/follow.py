"""Following a job's events across dropped connections, without I/O: what to ask, deliver and give up."""

from __future__ import annotations

import json
from collections import deque
from typing import Literal

from penstock._core import protocol as protocol
from penstock._core.protocol import Reply, Request
from penstock._core.retry import RetryPolicy, is_transient
from penstock._core.sse import ServerSentEvent, SSEParser
from penstock.errors import APIConnectionError, APIResponseError, PenstockError, StreamRestartedError
from penstock.models import Event, Restarted

_REMEMBERED = 10_000
"""Ids kept to recognise a repetition: far more than a server replays by mistake, and a bounded memory."""


class Follower:
    """One job's events, each delivered once.

    A driver opens :meth:`request`, gives what it reads to :meth:`feed` until :attr:`done`, and where the
    connection ends before that, asks :meth:`dropped` how long to pause (:class:`penstock._core.tails.Tail`).

    Attributes:
        cursor: id of the last event fed; empty before the first.
        done: the terminal event was fed, or the server says that nothing follows.
    """

    def __init__(self, job_id: str, after: str | None, policy: RetryPolicy) -> None:
        self.cursor = after or ""
        self.done = False
        self._job_id = job_id
        self._policy = policy
        self._parser = SSEParser(self.cursor)
        self._failures = 0
        self._progress = False
        self._min_delay_s = 0.0
        # Ids of earlier connections only: within one, an equal id is the server's grouping, no repetition.
        self._before: set[str] = {self.cursor} - {""}
        self._recent: deque[str] = deque(self._before, maxlen=_REMEMBERED)

    def request(self) -> Request:
        """Return the request of the next connection and forget what the last one left incomplete."""
        self._parser = SSEParser(self.cursor)
        self._progress = False
        self._before = set(self._recent)
        return protocol.events(self._job_id, self.cursor)

    def opened(self, head: Reply) -> bool:
        """Take an answer's status and headers; return whether its body is the event stream."""
        if head.status == 204:  # the contract of EventSource: the cursor was the last event, nothing follows
            self.done = True
            return True
        return head.status == 200 and "text/event-stream" in head.headers.get("content-type", "")

    def ended(self) -> None:
        """Take it that the connection came to an orderly end, which is no end of the job."""

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes of the present connection; return the events to deliver.

        Raises:
            APIResponseError: an event's data is not a JSON object.
        """
        events = []
        for raw in self._parser.feed(data):
            self.cursor = raw.id
            if raw.id in self._before:
                continue
            if raw.id:
                self._recent.append(raw.id)
            self._progress = True
            event = _read(raw)
            events.append(event)
            if event.terminal:
                self.done = True
                break
        if self._parser.retry_ms is not None:
            # Advice, within bounds: a wrong figure must not stall the stream for hours.
            self._min_delay_s = min(self._parser.retry_ms / 1000, self._policy.cap_s)
        return events

    def dropped(self, error: PenstockError | None) -> float:
        """Say how long to pause, in seconds, before the next connection.

        Args:
            error: what ended the connection or kept it from opening; None for an orderly, but early end.

        Raises:
            PenstockError: ``error``, where another try cannot help or too many in a row brought nothing.
        """
        problem = error or APIConnectionError(f"the event stream of {self._job_id} ended before the job did")
        if not is_transient(problem):
            raise problem
        if self._progress:
            self._failures = 0
        elif self._parser.comments == 0:  # one that only brought pings was alive: it counts neither way
            self._failures += 1
        delay_s = self._policy.delay_s(problem, max(self._failures - 1, 0))
        if delay_s is None:
            raise problem
        return max(delay_s, self._min_delay_s)


class TextStream:
    """Turns events into text deltas, and a restart into what the caller chose.

    Args:
        on_restart: ``raise`` or ``mark``, see :meth:`penstock.Penstock.stream`.
        resumed: the caller has text from before the first event.
    """

    def __init__(self, job_id: str, on_restart: Literal["raise", "mark"], *, resumed: bool) -> None:
        self.delivered = resumed
        self._job_id = job_id
        self._on_restart = on_restart

    def take(self, event: Event) -> str | Restarted | None:
        """Return what to deliver for this event; None for nothing.

        Raises:
            StreamRestartedError: text was delivered that is now void, and restarts raise.
            JobEndedError: the job ended without a result.
        """
        if event.type == "chunk":
            if not event.text:
                return None
            self.delivered = True
            return event.text
        if event.type == "restarted" and self.delivered:  # otherwise there is nothing to take back
            attempt = int(event.data.get("attempt", 0))
            if self._on_restart == "raise":
                raise StreamRestartedError(job_id=self._job_id, attempt=attempt, event_id=event.id)
            self.delivered = False
            return Restarted(attempt, event.id)
        job = event.job
        ended = protocol.ended_error(job) if job is not None else None
        if ended is not None:
            raise ended
        return None


def _read(raw: ServerSentEvent) -> Event:
    try:
        data = json.loads(raw.data)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        msg = f"the data of event {raw.event!r} ({raw.id}) is not a JSON object"
        raise APIResponseError(msg)
    return Event(id=raw.id, type=raw.event, data=data)
