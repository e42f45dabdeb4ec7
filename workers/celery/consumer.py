"""Celery's consumer, with cheap task events and a short way back to Redis.

Celery flushes its event buffer in every turn of its loop, which under load means one PUBLISH for one or two events. Here the
buffer is flushed a tenth of a second after its first event: a batch of 24 costs little more than one event, and Flower shows
no difference. Only so many jobs a second have events at all.

The longer Redis is away, the longer Celery pauses between its attempts to connect. Here the pause is always short.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import consumer

_FLUSH_AFTER_S = 0.1
_RECONNECT_S = 2

_LAST = frozenset({"task-succeeded", "task-failed", "task-revoked", "task-rejected", "task-retried"})
_ALWAYS = frozenset({"task-failed", "task-revoked"})


class BoundedEvents:
    """Replaces an event dispatcher's ``send``.

    A job is chosen when its message is received. Of other jobs only a bad end is sent. All other events pass.

    Args:
        gate: decides about one job; see :class:`monitoring.sampling.Gate`.
    """

    def __init__(self, send: Callable[..., Any], gate: Callable[[], bool]) -> None:
        self._send = send
        self._gate = gate
        self._chosen: set[str] = set()

    def __call__(self, type: str, *args: Any, **fields: Any) -> Any:  # noqa: A002 - the dispatcher's own name for it
        """Send an event, or drop it."""
        if not type.startswith("task-"):
            return self._send(type, *args, **fields)
        job_id = fields.get("uuid", "")
        if type == "task-received" and self._gate():
            self._chosen.add(job_id)
        if job_id not in self._chosen and type not in _ALWAYS:
            return None
        if type in _LAST:
            self._chosen.discard(job_id)
        return self._send(type, *args, **fields)


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """The consumer; see :func:`bounded_consumer`."""

    gate: Callable[[], bool]
    _flush_due = False
    _dispatcher: Any = None

    @property
    def event_dispatcher(self) -> Any:
        """The dispatcher of events; None while there is no connection."""
        return self._dispatcher

    @event_dispatcher.setter
    def event_dispatcher(self, dispatcher: Any) -> None:
        if dispatcher is not None:
            dispatcher.send = BoundedEvents(dispatcher.send, self.gate)
        self._dispatcher = dispatcher

    def on_send_event_buffered(self) -> None:
        """Have the buffer flushed soon, with all events that come until then."""
        hub: Any = self.hub
        if hub is not None and not self._flush_due:
            self._flush_due = True
            hub.call_later(_FLUSH_AFTER_S, self._flush_later)

    def _flush_later(self) -> None:
        self._flush_due = False
        self._flush_events()

    def ensure_connected(self, conn: Any) -> Any:
        """Connect. The pause between attempts is always short."""
        pauses = {"interval_start": _RECONNECT_S, "interval_step": 0, "interval_max": _RECONNECT_S}
        conn.ensure_connection = partial(conn.ensure_connection, **pauses)
        return super().ensure_connected(conn)


def bounded_consumer(gate: Callable[[], bool]) -> type[Consumer]:
    """Return the consumer class for ``app.Worker(consumer_cls=...)``. ``gate``: decides whether a job has events."""
    return type("Consumer", (Consumer,), {"gate": staticmethod(gate)})
