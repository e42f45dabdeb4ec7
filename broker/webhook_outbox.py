"""The outboxes of webhook endpoints, as the coordinators empty them: in order, by one coordinator at a time.

A coordinator takes an outbox with a lease, which each call of it prolongs. An entry leaves in the call that records its
delivery. So whoever dies, each event is delivered at least once, under the same id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from broker.db.calls.webhook_outbox import OutboxRead, WebhookLeave, WebhookNext, WebhookTake, WebhookTried
from broker.jobs import JobStore, StorePart
from jobs.webhooks import Event

READ_AT_ONCE = 50
"""Entries of an outbox."""


class Outcome(StrEnum):
    """How a try went."""

    DELIVERED = "delivered"
    FAILED = "failed"
    DEAD = "dead"
    """It failed, and the event is given up."""
    GONE = "gone"
    """The receiver wants no more: its endpoint is disabled."""


class Hold(StrEnum):
    """What a coordinator has after a try."""

    HELD = "held"
    EMPTY = "empty"
    """Nothing more: that was the last entry, and the outbox is given back."""
    LOST = "lost"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of an outbox.

    Attributes:
        id: its place.
        tries: how often it was tried, each time in vain.
    """

    id: str
    event: Event
    tries: int


@dataclass(frozen=True, slots=True)
class Outbox:
    """What an endpoint is to get next, in order."""

    tenant: str
    url: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One try.

    Attributes:
        status: of the answer; None: there was none.
        took_ms: how long it took.
        error: why there was no answer; empty: there was one.
        answer: the beginning of the answer's body.
    """

    outcome: Outcome
    status: int | None
    took_ms: int
    error: str = ""
    answer: str = ""


class WebhookOutbox(StorePart):
    """The outboxes.

    Args:
        coordinator: the token of the one that delivers.
        lease_s: how long it has an outbox after each call, in seconds; longer than a try may take.
        disable_after_s: an endpoint whose every try failed for so long is disabled.
    """

    def __init__(self, store: JobStore, coordinator: str, lease_s: float, disable_after_s: float) -> None:
        super().__init__(store)
        self._coordinator = coordinator
        self._lease_ms = int(lease_s * 1000)
        self._disable_after_ms = int(disable_after_s * 1000)

    async def due(self, most: int) -> list[str]:
        """Return endpoints for which something is due, the longest first."""
        key = self._keys("webhooks_due")
        found = await self._execute(self._client.zrange(key, 0, most - 1, withscores=True))
        if not found:
            return []
        now_ms = await self._store.now_ms()
        return [endpoint for endpoint, due_ms in found if due_ms <= now_ms]

    async def take(self, endpoint: str) -> Outbox | None:
        """Take an outbox that is due; None: another coordinator was faster, or nothing is due."""
        return _outbox(
            await self._call(WebhookTake(endpoint, self._coordinator, self._lease_ms, READ_AT_ONCE))
        )

    async def next(self, endpoint: str) -> Outbox | None:
        """Return the next entries; None: there is none, or the outbox is no longer this coordinator's."""
        return _outbox(
            await self._call(WebhookNext(endpoint, self._coordinator, self._lease_ms, READ_AT_ONCE))
        )

    async def tried(self, endpoint: str, entry: Entry, result: Result) -> Hold:
        """Record a try: the entry leaves the outbox if it was delivered or is given up, and else stays where it is."""
        call = WebhookTried(
            id=endpoint,
            coordinator=self._coordinator,
            lease_ms=self._lease_ms,
            entry=entry.id,
            number=entry.tries + 1,
            outcome=result.outcome,
            status=result.status,
            took_ms=result.took_ms,
            error=result.error,
            answer=result.answer,
            disable_after_ms=self._disable_after_ms,
        )
        return Hold(await self._call(call))

    async def leave(self, endpoint: str, wait_s: float = 0.0) -> bool:
        """Give an outbox back, to be taken again after ``wait_s`` seconds if something is in it. False: it was lost."""
        return await self._call(WebhookLeave(endpoint, self._coordinator, int(wait_s * 1000)))


def _outbox(found: OutboxRead | None) -> Outbox | None:
    if found is None:
        return None
    entries = (
        Entry(place, Event(event, kind, of, at_ms), tries)
        for place, event, kind, of, at_ms, tries in found.entries
    )
    return Outbox(found.tenant, found.url, tuple(entries))
