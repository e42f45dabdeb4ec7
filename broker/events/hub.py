"""The event hub: one subscription for all clients of an api process.

To follow a job, in this order: register an inbox, ask for the job's events, replay its log after the cursor, go live and
drop seen events. After a gap in the sequence, a lost subscription or an overflowing inbox, read the log again. A pub/sub
message is only an early hint; the log and the record are the truth.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog
from redis.asyncio import Redis

from broker.db.errors import StoreUnavailableError
from broker.endings import Ending, decode_ending, ending_of, ending_payload
from broker.events.inbox import EventId, Inbox
from broker.events.subscriber import Subscriber
from broker.jobs import JobStore
from jobs.model import Running, Succeeded
from jobs.sealing import SealingError

T = TypeVar("T")

log = structlog.get_logger(__name__)

SEQ_END = 4_294_967_295
START = "0-0"

PAGE = 200
"""Entries of a log that are read at once."""

LOOK = "l"
"""The payload in place of one that is too long to be published, see ``broker/lua/1_lib.lua``."""

LOOK_S = 20.0


def parse_cursor(text: str) -> tuple[int, int]:
    """Read an event id, ``<attempt>-<seq>``, as a sortable pair.

    Raises:
        ValueError: it is not an event id.
    """
    attempt, dash, seq = text.partition("-")
    if not dash or not (attempt.isascii() and attempt.isdigit() and seq.isascii() and seq.isdigit()):
        raise ValueError(f"not an event id: {text!r}")
    return int(attempt), int(seq)


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
            inboxes = self._inboxes.get(message[i])
            if not inboxes:
                continue
            try:
                payload = self._store.sealer.open_event(*message[i : i + 3])
            except SealingError as error:
                log.warning("event_unreadable", job_id=message[i], error=str(error))
                payload = LOOK  # who reads the log or the record meets the error
            for inbox in inboxes:
                if payload == LOOK:
                    inbox.lose()
                else:
                    inbox.add(message[i + 1], payload)

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
        """Wait for the end of a job whose events this process receives. While Redis is away it waits on.

        Raises:
            LookupError: its record is gone.
            SealingError: its result is encrypted and cannot be read.
        """
        while True:
            events = await self._next(inbox)
            for _, payload in events:
                if payload[0] == "e":
                    return decode_ending(payload)
            if not events:
                ended = await _unless_away(self.ended(job_id))
                if ended is not None:
                    return ended

    async def _next(self, inbox: Inbox) -> list[tuple[EventId, str]]:
        """Wait for events; an empty list: it is time to look. Many wait at once, so they do not look at once."""
        return await inbox.take(self._look_s * random.uniform(0.7, 1.0))

    async def ended(self, job_id: str, *, owner: str | None = None) -> Ending | None:
        """Read from the record how a job ended; None: it has not ended.

        Raises:
            LookupError: there is no such job of ``owner``.
        """
        job, stored = await self._store.get_with_result(job_id, position=False, owner=owner)
        if job is None or stored is None:
            raise LookupError(job_id)
        if not job.state.terminal:
            return None
        return ending_of(job, stored.status, stored.body or b"")

    async def follow(
        self,
        job_id: str,
        inbox: Inbox,
        *,
        after: EventId = START,
        live: bool = False,
        owner: str | None = None,
    ) -> AsyncGenerator[list[tuple[EventId, str]], None]:
        """Yield a job's events after a cursor, in order and each once, in groups; the last one is the end event.

        The end event's payload may lack the result (see :func:`broker.endings.decode_ending`). If Redis goes away
        meanwhile, the events continue when it is back.

        Args:
            inbox: registered for it before this call.
            after: the last seen event.
            live: the job was accepted with this process as its sink, so there is nothing to replay.
            owner: the tenant for whom it is; see :class:`broker.jobs.JobStore`.

        Raises:
            LookupError: there is no such job of ``owner``.
            SealingError: an event is encrypted and cannot be read.
            StoreUnavailableError: Redis is away at the start.
        """
        cursor = parse_cursor(after)
        if not live and await self._store.watch(job_id, self.process, owner=owner) is None:
            raise LookupError(job_id)
        from_log = not live
        while True:
            more = False
            if from_log:
                events, more = await self._past(job_id, inbox, f"{cursor[0]}-{cursor[1]}")
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

    async def _past(
        self, job_id: str, inbox: Inbox, after: EventId
    ) -> tuple[list[tuple[EventId, str]], bool]:
        """As :meth:`_history`, but wait while Redis is away."""
        while (past := await _unless_away(self._history(job_id, after))) is None:
            await self._next(inbox)  # what it has is in the log too
        return past

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


async def _unless_away(look: Awaitable[T]) -> T | None:
    """Return what a look at Redis found; None: Redis is away.

    A waiter outlives that: the subscription reports a gap as soon as it is there again, and so makes it look again.
    """
    try:
        return await look
    except StoreUnavailableError as error:
        log.debug("look_delayed", error=str(error))
        return None
