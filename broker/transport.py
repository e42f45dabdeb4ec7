"""Kombu's Redis transport, made cheaper.

- Kombu builds a new redis-py client, with its table of some hundred callbacks, for every command that is not a blocking
  pop: three times a job for the task events alone. A client holds no connection of its own (the pool does), so one per
  channel serves.
- Kombu pops one message a round trip. ``BLMPOP`` (Redis 7.0) pops as many as the worker has room for, still strictly from
  the first lane that has any, so that a burst reaches the engine as one batch.
"""

from __future__ import annotations

from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

FREE_SLOTS = "penstock_free_slots"
"""Transport option: a function that says how many more messages the worker has room for."""

_MOST = 32


class Channel(redis.Channel):  # type: ignore[misc]
    """A channel that keeps its client and pops in batches."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept is None:
            self._kept = super()._create_client()
        return self._kept

    def _disconnect_pools(self) -> None:
        self._kept = None
        super()._disconnect_pools()

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        free_slots = self.connection.client.transport_options.get(FREE_SLOTS)
        count = min(max(free_slots(), 1), _MOST) if free_slots else 1
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        wait_s = self.brpop_timeout if timeout is None else timeout
        self.client.connection.send_command(
            "BLMPOP", wait_s or 0, len(queues), *queues, "RIGHT", "COUNT", count
        )

    def _brpop_read(self, **options: Any) -> bool:
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BLMPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()  # the next round connects again
                raise
            if not reply:
                raise Empty
            queue = bytes_to_str(reply[0])
            self._queue_cycle.rotate(queue)
            for item in reply[1]:
                self.connection._deliver(loads(bytes_to_str(item)), queue)  # noqa: SLF001 - as the method replaced
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()


class Transport(redis.Transport):  # type: ignore[misc]
    """The transport with that channel."""

    Channel = Channel


def install() -> None:
    """Make kombu's ``redis://``, ``rediss://`` and ``redis+socket://`` addresses use this transport."""
    for alias in ("redis", "rediss", "redis+socket"):
        TRANSPORT_ALIASES[alias] = "broker.transport:Transport"
