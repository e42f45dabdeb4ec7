"""The event hub: one subscription for all clients of an api process.

To follow a job, in this order: register an inbox, ask for the job's events, replay its log after the cursor, go live and
drop seen events. After a gap in the sequence, a lost subscription or an overflowing inbox, read the log again. A pub/sub
message is only an early hint; the log and the record are the truth.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from redis.asyncio import Redis

from broker.events.subscriber import Subscriber
from broker.jobs import JobStore
from broker.records import Ending, decode_ending, ending_of, ending_payload
from jobs.model import Running, Succeeded

SEQ_END = 4_294_967_295
START = "0-0"

PAGE = 200
"""Entries of a log that are read at once."""

LOOK = "l"
"""The payload in place of one that is too long to be published, see ``broker/lua/_lib.lua``."""

LOOK_S = 20.0

EventId: TypeAlias = str


def parse_cursor(text: str) -> tuple[int, int]:
    """Read an event id, ``<attempt>-<seq>``, as a sortable pair.

    Raises:
        ValueError: it is not an event id.
    """
    attempt, dash, seq = text.partition("-")
    if not dash or not (attempt.isascii() and attempt.isdigit() and seq.isascii() and seq.isdigit()):
        raise ValueError(f"not an event id: {text!r}")
    return int(attempt), int(seq)


@dataclass(slots=True)
class Inbox:
    """Events of one job for one client.

    Attributes:
        limit: most events that are kept.
        max_bytes: most characters of payloads that are kept, besides one event of any length.
        lost: some events may be missing, so read the log.
    """

    limit: int
    max_bytes: int
    events: list[tuple[EventId, str]] = field(default_factory=list)
    size: int = 0
    lost: bool = False
    waiter: asyncio.Future[None] | None = None

    def add(self, eid: EventId, payload: str) -> None:
        """Add an event. If the client is too slow, drop all events and mark them lost."""
        if self.lost:
            return  # the log has it too
        self.size += len(payload)
        if self.events and (len(self.events) >= self.limit or self.size > self.max_bytes):
            self.lose()
            return
        self.events.append((eid, payload))
        self.wake()

    def lose(self) -> None:
        """Mark that events may have been missed."""
        self.lost = True
        self._clear()
        self.wake()

    async def _wait(self, patience_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        timer = None if patience_s is None else loop.call_later(patience_s, self.lose)
        try:
            while not self.events and not self.lost:
                self.waiter = loop.create_future()
                await self.waiter
        finally:
            self.waiter = None
            if timer is not None:
                timer.cancel()

    def _clear(self) -> None:
        self.events = []
        self.size = 0

    def wake(self) -> None:
        """Wake the reader."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def take(self, patience_s: float | None = None) -> list[tuple[EventId, str]]:
        """Wait for events and return them; an empty list: some were lost, or none came within ``patience_s`` seconds."""
        if not self.events and not self.lost:
            await self._wait(patience_s)
        self.lost = False
        events = self.events
        self._clear()
        return events


class EventHub:
    """Follows jobs for the clients of one api process.

    Args:
        client: a client with ``text=False``, for the subscription alone.
        process: this process's id, unique among api processes.
        inbox_limit: most events kept for a slow client.
        inbox_max_bytes: most bytes of them.
        look_s: longest time without an event, in seconds; then the log or the record is read, as an event may be lost.
    """

    def __init__(
        self,
        store: JobStore,
        client: Redis,
        process: str,
        *,
        inbox_limit: int = 4096,
        inbox_max_bytes: int = 1024 * 1024,
        look_s: float = LOOK_S,
    ) -> None:
        self.process = process
        self._store = store
        self._limit, self._max_bytes, self._look_s = inbox_limit, inbox_max_bytes, look_s
        self._inboxes: dict[str, list[Inbox]] = {}
        self._subscriber = Subscriber(
            client, store.keys("api_channel", process), self._deliver, self._lose_all, store.faults
        )

    async def start(self) -> None:
        """Subscribe."""
        await self._subscriber.start()

    async def stop(self) -> None:
        """End the subscription."""
        await self._subscriber.stop()

    @property
    def deaf_s(self) -> float:
        """Seconds for which no event has come through; 0: they come; infinite: they will not come again."""
        return self._subscriber.deaf_s

    def _deliver(self, message: list[str]) -> None:
        for i in range(0, len(message), 3):
            for inbox in self._inboxes.get(message[i], ()):
                if message[i + 2] == LOOK:
                    inbox.lose()
                else:
                    inbox.add(message[i + 1], message[i + 2])

    def _lose_all(self) -> None:
        for inboxes in self._inboxes.values():
            for inbox in inboxes:
                inbox.lose()

    @contextmanager
    def inbox(self, job_id: str) -> Iterator[Inbox]:
        """Register an inbox for a job. Do it before the job can publish anything."""
        inbox = Inbox(self._limit, self._max_bytes)
        self._inboxes.setdefault(job_id, []).append(inbox)
        try:
            yield inbox
        finally:
            inboxes = self._inboxes[job_id]
            inboxes.remove(inbox)
            if not inboxes:
                del self._inboxes[job_id]

    async def ending(self, job_id: str, inbox: Inbox) -> Ending:
        """Wait for the end of a job whose events this process receives.

        Raises:
            LookupError: its record is gone.
        """
        while True:
            events = await self._next(inbox)
            for _, payload in events:
                if payload[0] == "e":
                    return decode_ending(payload)
            if not events:
                ended = await self.ended(job_id)
                if ended is not None:
                    return ended

    async def _next(self, inbox: Inbox) -> list[tuple[EventId, str]]:
        """Wait for events; an empty list: it is time to look. Many wait at once, so they do not look at once."""
        return await inbox.take(self._look_s * random.uniform(0.7, 1.0))

    async def ended(self, job_id: str) -> Ending | None:
        """Read from the record how a job ended; None: it has not ended.

        Raises:
            LookupError: there is no such job.
        """
        job = await self._store.get(job_id, position=False)
        if job is None:
            raise LookupError(job_id)
        if not job.state.terminal:
            return None
        stored = await self._store.result(job_id)
        return ending_of(job, stored.status, stored.body or b"")

    async def follow(
        self, job_id: str, inbox: Inbox, *, after: EventId = START, live: bool = False
    ) -> AsyncGenerator[list[tuple[EventId, str]], None]:
        """Yield a job's events after a cursor, in order and each once, in groups; the last one is the end event.

        The end event's payload may lack the result (see :func:`broker.records.decode_ending`).

        Args:
            inbox: registered for it before this call.
            after: the last seen event.
            live: the job was accepted with this process as its sink, so there is nothing to replay.

        Raises:
            LookupError: there is no such job.
        """
        cursor = parse_cursor(after)
        if not live and await self._store.watch(job_id, self.process) is None:
            raise LookupError(job_id)
        from_log = not live
        while True:
            more = False
            if from_log:
                events, more = await self._history(job_id, f"{cursor[0]}-{cursor[1]}")
            else:
                events = await self._next(inbox)
            hole = not events and not from_log
            fresh: list[tuple[EventId, str]] = []
            for eid, payload in events:
                here = parse_cursor(eid)
                if here <= cursor:
                    if payload[0] == "e":
                        return  # the caller has seen the end
                    continue
                if not from_log and payload[0] in "htj" and here != (cursor[0], cursor[1] + 1):
                    hole = True
                    break
                cursor = here
                fresh.append((eid, payload))
            from_log = hole or more
            if fresh:
                yield fresh
                if fresh[-1][1][0] == "e":
                    return

    async def _history(self, job_id: str, after: EventId) -> tuple[list[tuple[EventId, str]], bool]:
        """Return past events, and whether there are more: from the log of a streamed job, or made from another's record."""
        job = await self._store.get(job_id, position=False)
        if job is None:
            raise LookupError(job_id)
        events = await self._store.log(job_id, after, PAGE) if job.stream else []
        if len(events) == PAGE:
            return events, True
        if not job.stream:
            events = [("0-1", "s" + json.dumps({"state": "queued", "attempt": 0}))]
            if job.attempt:
                worker = job.phase.worker if isinstance(job.phase, Running | Succeeded) else None
                state = {"state": "running", "attempt": job.attempt, "worker": worker}
                events.append((f"{job.attempt}-0", "s" + json.dumps(state)))
        if job.state.terminal and not (events and events[-1][1][0] == "e"):
            events.append((f"{job.attempt}-{SEQ_END}", ending_payload(job)))
        return events, False
