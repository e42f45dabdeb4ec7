"""The functions of webhook endpoints: see :mod:`broker.db.calls.base`. Secrets are sealed before they are in a call."""

from __future__ import annotations

from collections.abc import Mapping

from broker.db.calls.base import WRITES, Call


class WebhookCreate(Call[bool]):
    """Record an endpoint. Answers False if its tenant has ``most`` of them.

    Attributes:
        events: names of types and groups, with spaces between them.
    """

    flags = WRITES
    id: str
    tenant: str
    url: str
    events: str
    secret: str
    most: int
    description: str | None = None
    by: str | None = None


class WebhookSet(Call[bool]):
    """Write fields of an endpoint's record; an empty text removes one. Answers whether ``owner`` has such an endpoint."""

    flags = WRITES
    id: str
    fields: Mapping[str, str]
    owner: str | None = None
    by: str | None = None


class WebhookDelete(Call[bool]):
    """Delete an endpoint, and what it has not got. Answers whether ``owner`` had such an endpoint."""

    id: str
    owner: str | None = None
    by: str | None = None


class WebhookRotate(Call[bool]):
    """Give an endpoint, or a tenant, a new secret. Answers whether there is such a record for ``owner``.

    Attributes:
        overlap_ms: how long the secret until now signs, too.
    """

    flags = WRITES
    id: str
    secret: str
    overlap_ms: int
    owner: str | None = None
    by: str | None = None


class WebhookSecret(Call[str]):
    """Answer with a tenant's secret for endpoints of one object. ``secret``: the one it gets if it has none."""

    flags = WRITES
    tenant: str
    secret: str


class WebhookPut(Call[bool]):
    """Put an event into an endpoint's outbox. Answers whether ``owner`` has such an endpoint.

    Attributes:
        at: when it happened; None: now.
        letter: id of the entry of the dead letters that this is; None: it is none.
    """

    flags = WRITES
    id: str
    event: str
    kind: str
    object: str
    at: int | None = None
    letter: str | None = None
    owner: str | None = None
    by: str | None = None
