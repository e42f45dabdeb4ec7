"""The wire models of webhooks. Times are Unix seconds."""

from __future__ import annotations

from penstock.models import Wire


class Webhook(Wire):
    """An endpoint that is told when things end.

    Attributes:
        id: ``wh_...``, or ``whe_`` and the id of the one job or batch that it is for.
        events: types or groups of events; ``*`` is all.
        state: ``active`` or ``disabled``. What happens is kept for a disabled one, up to a bound.
        disabled_reason: ``failing`` or ``gone``; None: somebody disabled it, or it is active.
        overlap_until: until then the secret before the last rotation signs, too; None: it does not.
        pending: events that are not delivered yet.
        dead: events that were given up.
        secret: signs what is sent; None in every answer but those of ``create`` and ``rotate``.
    """

    id: str
    tenant: str = "default"
    url: str
    events: tuple[str, ...] = ("*",)
    description: str = ""
    state: str = "active"
    disabled_reason: str | None = None
    created_at: float | None = None
    overlap_until: float | None = None
    pending: int = 0
    dead: int = 0
    secret: str | None = None


class WebhookEvent(Wire):
    """An event, as the lists of an endpoint name it.

    Attributes:
        id: the same however often it is sent.
        object_id: of the job, batch or response.
        created_at: when it happened.
    """

    id: str
    type: str
    object_id: str
    created_at: float


class Delivery(Wire):
    """One try to deliver an event.

    Attributes:
        id: its place in the list.
        attempt: of this event, from 1.
        at: when it ended.
        status: of the answer; None: there was none.
        error: why there was no answer.
        answer: the beginning of the answer's body.
    """

    id: str
    event: WebhookEvent
    attempt: int
    at: float
    delivered: bool
    status: int | None = None
    error: str | None = None
    took_ms: int = 0
    answer: str = ""


class DeadLetter(Wire):
    """An event that was given up.

    Attributes:
        id: its place in the list.
        reason: ``failed`` (every try of a day failed) or ``overflow`` (too many events waited).
        at: when it was given up.
    """

    id: str
    event: WebhookEvent
    reason: str
    attempts: int
    at: float


class Sent(Wire):
    """An event that is on its way. ``id``: the event's."""

    id: str
    webhook_id: str


class WebhookSecret(Wire):
    """The secret that signs the events of a tenant's single jobs and batches."""

    secret: str


class WebhookDeleted(Wire):
    """An endpoint is gone."""

    id: str
    deleted: bool


class NotificationData(Wire):
    """What an event is about. ``status``: how it ended; None: a test."""

    id: str
    status: str | None = None


class Notification(Wire):
    """What an endpoint gets: the body of a request whose signature is right.

    Attributes:
        id: the event's: the same at each delivery, so that a receiver can pass over what it has.
        type: ``job.succeeded``, ``batch.completed``, ``ping``, ...
        created_at: when it happened.
    """

    id: str
    type: str
    created_at: float
    data: NotificationData
