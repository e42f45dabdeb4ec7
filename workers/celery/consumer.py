"""Celery's consumer, sending task events in batches, and never long away from a Redis that is back.

Celery flushes its event buffer in every turn of its loop, which under load means one PUBLISH for one or two events.
A tenth of a second later nobody looking at Flower can tell, and a batch of 24 costs little more than one event. And they are
sent of so many jobs a second at most, see :mod:`workers.celery.events`.

Between its attempts to connect Celery pauses up to half a minute, the longer Redis has been away.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker import consumer

from workers.celery.events import BoundedEvents

_FLUSH_AFTER_S = 0.1
_RECONNECT_S = 2

GATE = "penstock_event_gate"
"""The attribute of the Celery application that holds the gate for events; without it all are sent."""


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """The consumer, named by the setting ``worker_consumer``."""

    _flush_due = False
    _dispatcher: Any = None

    @property
    def event_dispatcher(self) -> Any:
        """What sends events; None while there is no connection."""
        return self._dispatcher

    @event_dispatcher.setter
    def event_dispatcher(self, dispatcher: Any) -> None:
        gate = getattr(self.app, GATE, None)
        if dispatcher is not None and gate is not None:
            dispatcher.send = BoundedEvents(dispatcher.send, gate)
        self._dispatcher = dispatcher

    def on_send_event_buffered(self) -> None:
        """Have the buffer flushed soon, once for all that comes meanwhile."""
        hub: Any = self.hub
        if hub is not None and not self._flush_due:
            self._flush_due = True
            hub.call_later(_FLUSH_AFTER_S, self._flush_later)

    def _flush_later(self) -> None:
        self._flush_due = False
        self._flush_events()

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, trying again after the same short pause however long it takes."""
        pauses = {"interval_start": _RECONNECT_S, "interval_step": 0, "interval_max": _RECONNECT_S}
        conn.ensure_connection = partial(conn.ensure_connection, **pauses)
        return super().ensure_connected(conn)
