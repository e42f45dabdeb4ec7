"""Following a job over dropped connections, without I/O: its events, and its text."""

from __future__ import annotations

from collections import deque
from typing import Literal

from penstock._core import flows, replies, requests
from penstock._core.flows import Deliver, Items
from penstock._core.replies import Reply
from penstock._core.requests import Request
from penstock._core.retry import RetryPolicy
from penstock._core.sse import SSEParser
from penstock._core.tails import EventTail
from penstock.errors import PenstockError, StreamRestartedError
from penstock.models import Event, Job, Restarted

_REMEMBERED = 10_000
"""Ids kept to recognise a repetition: far more than a server replays by mistake, and a bounded memory."""


class Follower(EventTail[Event]):
    """One job's events, each delivered once (:class:`penstock._core.tails.Tail`).

    Attributes:
        cursor: id of the last event fed; empty before the first.
        done: the terminal event was fed, or the server says that nothing follows.
    """

    def __init__(self, job_id: str, after: str | None, policy: RetryPolicy) -> None:
        self.cursor = after or ""
        super().__init__(job_id, policy, self.cursor)
        self._path = f"{requests.job_path(job_id)}/events"
        self._min_delay_s = 0.0
        # Ids of earlier connections only. Within one connection, an equal id is the server's grouping.
        self._before: set[str] = {self.cursor} - {""}
        self._recent: deque[str] = deque(self._before, maxlen=_REMEMBERED)

    def request(self) -> Request:
        """Return the request of the next connection and forget what the last one left incomplete."""
        self.parser = SSEParser(self.cursor)
        self._before = set(self._recent)
        return requests.event_stream(self._path, self.cursor)

    def opened(self, head: Reply) -> bool:
        """Take an answer's status and headers; return whether its body is the event stream."""
        if head.status == 204:  # the contract of EventSource: the cursor was the last event, nothing follows
            self.done = True
            return True
        return super().opened(head)

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes of the present connection; return the events to deliver.

        Raises:
            APIResponseError: an event's data is not a JSON object.
        """
        events = []
        for raw in self.parser.feed(data):
            self.cursor = raw.id
            if raw.id in self._before:
                continue
            if raw.id:
                self._recent.append(raw.id)
            self.progress = True
            event = Event(id=raw.id, type=raw.event, data=self.fields(raw))
            events.append(event)
            if event.terminal:
                self.done = True
                break
        if self.parser.retry_ms is not None:
            # Advice, within bounds: a wrong figure must not stall the stream for hours.
            self._min_delay_s = min(self.parser.retry_ms / 1000, self.policy.cap_s)
        return events

    def dropped(self, error: PenstockError | None) -> float:
        """See :meth:`penstock._core.tails.Tail.dropped`; the server may ask for a longer pause."""
        return max(super().dropped(error), self._min_delay_s)


class TextStream:
    """Turns events into text deltas, and a restart into what the caller chose.

    Args:
        job_id: the job.
        on_restart: ``raise`` or ``mark``, see :meth:`penstock.Penstock.stream`.
        resumed: the caller has text from before the first event.

    Attributes:
        at_once: the job has ended and had no deltas, so its whole text is still to be fetched.
    """

    def __init__(self, job_id: str, on_restart: Literal["raise", "mark"], *, resumed: bool) -> None:
        self.at_once = False
        self._delivered = resumed
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
            self._delivered = True
            return event.text
        if event.type == "restarted" and self._delivered:  # otherwise there is nothing to take back
            attempt = int(event.data.get("attempt", 0))
            if self._on_restart == "raise":
                raise StreamRestartedError(job_id=self._job_id, attempt=attempt, event_id=event.id)
            self._delivered = False
            return Restarted(attempt, event.id)
        job = event.job
        if job is not None:
            ended = replies.ended_error(job)
            if ended is not None:
                raise ended
            self.at_once = event.data.get("stream") is False
        return None


def text(
    job_id: str,
    after: str | None,
    on_restart: Literal["raise", "mark"],
    *,
    calls: RetryPolicy,
    follows: RetryPolicy,
) -> Items[str | Restarted]:
    """Deliver a job's text as it comes; of a job without deltas, the whole text at its end."""
    stream = TextStream(job_id, on_restart, resumed=after is not None)
    pieces: Items[str | Restarted] = flows.read(Follower(job_id, after, follows), stream.take)
    yield from pieces
    if stream.at_once:
        job = yield from flows.fetch(requests.get_job(job_id), Job, calls)
        yield Deliver(job.text)
