"""The events of one job that one client has not read yet: bounded, and honest about what was dropped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TypeAlias

EventId: TypeAlias = str


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
