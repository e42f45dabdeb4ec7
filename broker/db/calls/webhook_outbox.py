"""The functions by which coordinators deliver webhooks: see :mod:`broker.db.calls.base`.

``coordinator`` is the token of the one that has the outbox; a call of another has no effect on the lease.
"""

from __future__ import annotations

from broker.db.calls.base import Answer, Call


class OutboxRead(Answer):
    """What an endpoint is to get next.

    Attributes:
        entries: id of the entry, id of the event, its type, its object, when it happened, how often it was tried.
    """

    tenant: str
    url: str
    entries: list[tuple[str, str, str, str, int, int]]


class WebhookTake(Call[OutboxRead | None]):
    """Take the outbox of an endpoint for which something is due, and read its first entries. None: not taken."""

    id: str
    coordinator: str
    lease_ms: int
    most: int


class WebhookNext(Call[OutboxRead | None]):
    """Read the first entries of an outbox and prolong its lease. None: it is empty and given back, or was lost."""

    id: str
    coordinator: str
    lease_ms: int
    most: int


class WebhookTried(Call[str]):
    """Record a try, and what follows for the entry: it leaves the outbox, stays for the next try, or is a dead letter.

    Answers ``held``; ``empty``: the outbox is, and was given back; ``lost``: the coordinator has it no longer;
    ``disabled``: the endpoint is now.

    Attributes:
        number: of this try of the event, from 1.
        outcome: ``delivered``, ``failed``, ``dead``: given up after this failure; ``gone``: the receiver wants no more.
        disable_after_ms: an endpoint that fails for so long is disabled.
    """

    id: str
    coordinator: str
    lease_ms: int
    entry: str
    number: int
    outcome: str
    status: int | None
    took_ms: int
    error: str
    answer: str
    disable_after_ms: int


class WebhookLeave(Call[bool]):
    """Give an outbox back. ``wait_ms``: for so long nobody takes it. Answers whether the coordinator had it."""

    id: str
    coordinator: str
    wait_ms: int
