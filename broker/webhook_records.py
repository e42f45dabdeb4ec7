"""What Redis holds of webhooks, read into types: endpoints, tries and dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobs.webhooks import Event


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint that gets events.

    Attributes:
        id: ``wh_...``; ``whe_...``: it gets the events of one job or batch, and lasts two days from its end.
        events: types and groups, see :func:`jobs.webhooks.subscription`.
        active: it gets what happens; else that is kept for it, up to a bound.
        reason: why it is disabled; empty: somebody did it, or it is active.
        overlap_ms: until when the secret before the last rotation signs, too; None: it does not.
        pending: events that it has not got.
        dead: events that were given up.
    """

    id: str
    tenant: str
    url: str
    events: tuple[str, ...]
    description: str
    active: bool
    reason: str
    created_ms: int
    overlap_ms: int | None
    pending: int
    dead: int


@dataclass(frozen=True, slots=True)
class Try:
    """One try to deliver an event.

    Attributes:
        id: its place in the list.
        at_ms: when it ended.
        number: of this event, from 1.
        status: of the answer; None: there was none.
        error: why it failed, where that is not the status; empty: it did not.
        took_ms: how long it took.
        answer: the beginning of the answer's body.
    """

    id: str
    at_ms: int
    event: Event
    number: int
    status: int | None
    error: str
    took_ms: int
    answer: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was given up.

    Attributes:
        id: its place in the list.
        at_ms: when it was given up.
        why: a word: ``overflow``, ...
        tries: how often it was sent.
    """

    id: str
    at_ms: int
    event: Event
    why: str
    tries: int


def webhook_of(ident: str, fields: Mapping[str, str], pending: int, dead: int) -> Webhook:
    """Read an endpoint from its record."""
    return Webhook(
        id=ident,
        tenant=fields["tenant"],
        url=fields["url"],
        events=tuple(fields["events"].split()),
        description=fields.get("description", ""),
        active=fields["state"] == "active",
        reason=fields.get("reason", ""),
        created_ms=int(fields["created"]),
        overlap_ms=int(fields["until2"]) if "until2" in fields else None,
        pending=pending,
        dead=dead,
    )


def event_of(fields: Mapping[str, str]) -> Event:
    """Read an event from an entry of an outbox or a list."""
    return Event(fields["event"], fields["type"], fields["object"], int(fields["at"]))


def try_of(ident: str, fields: Mapping[str, str]) -> Try:
    """Read an entry of the tries."""
    status, at_ms = fields["status"], int(ident.partition("-")[0])
    return Try(
        ident,
        at_ms,
        event_of(fields),
        int(fields["n"]),
        int(status) if status else None,
        fields["error"],
        int(fields["ms"]),
        fields["answer"],
    )


def dead_letter_of(ident: str, fields: Mapping[str, str]) -> DeadLetter:
    """Read an entry of the dead letters."""
    at_ms = int(ident.partition("-")[0])
    return DeadLetter(ident, at_ms, event_of(fields), fields["why"], int(fields["tries"]))
