"""Kombu's Redis transport, made cheaper.

- Kombu builds a new redis-py client, with its table of some hundred callbacks, for every command that is not a blocking
  pop: three times a job for the task events alone. The connections belong to the pool, so one client per channel suffices.
- Kombu pops one message a round trip. ``BLMPOP`` (Redis 7.0) pops as many as the worker has room for, still strictly from
  the first lane that has any, so that a burst reaches the engine as one batch.
- A pop skips the bulk lane while the worker's lane controller gives it no room.

It also follows the master: a demoted master's refusal counts as a broken connection, and ``sentinel://`` addresses ask for
the master at every connection.
"""

from __future__ import annotations

import math
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from broker.db.faults import Faults, is_fault
from broker.db.sentinel import SyncMasterConnection, client_options

FREE_SLOTS = "penstock_free_slots"
"""Transport option: a function that returns how many more messages the worker has room for."""

BULK_ROOM = "penstock_bulk_room"
"""Transport option: the bulk lane's queue, and two functions: how many of its messages the worker may take now, and if none,
after how many seconds to ask again."""

FAULTS = "penstock_faults"
"""Transport option: the process's :class:`~broker.db.faults.Faults`, where a refused pop is reported."""

_MOST = 32
_NO_BULK: tuple[Any, Any, Any] = (None, None, None)


class Channel(redis.Channel):  # type: ignore[misc]
    """A channel that keeps its client and pops in batches."""

    do_restore = False  # of messages, when a connection breaks: the reaper pushes missing ones, each once
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
        wait_s = self.brpop_timeout if timeout is None else timeout
        bulk_queue, bulk_room, held_s = self.connection.client.transport_options.get(BULK_ROOM) or _NO_BULK
        if bulk_queue in queues and bulk_room is not None:
            room = bulk_room()
            count = max(1, min(count, room))
            if room <= 0 and len(queues) > 1:
                queues = [queue for queue in queues if queue != bulk_queue]
                wait_s = min(wait_s or math.inf, held_s())
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        self.client.connection.send_command(
            "BLMPOP", wait_s or 0, len(queues), *queues, "RIGHT", "COUNT", count
        )

    def _brpop_read(self, **options: Any) -> bool:
        try:
            try:
                reply = self._pop_reply(**options)
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

    def _pop_reply(self, **options: Any) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "BLMPOP", **options)
        except ResponseError as error:
            if is_fault(error):
                # Celery would connect again and again; so this is none of its errors, and ends it.
                faults: Faults = self.connection.client.transport_options[FAULTS]
                raise faults.translate(error, "BLMPOP") from error
            # Redis is loading, was demoted (READONLY, UNBLOCKED), and so on.
            raise RedisConnectionError(f"cannot pop: {error}") from error


class SentinelChannel(Channel):
    """The same channel to the master that the sentinels name, see :func:`broker.db.urls.celery_options`."""

    from_transport_options = (*Channel.from_transport_options, "sentinels")
    connection_class = SyncMasterConnection
    sentinels: Any = None

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - kombu's signature
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)
        return params | client_options(self.sentinels)


class Transport(redis.Transport):  # type: ignore[misc]
    """The transport with :class:`Channel`."""

    Channel = Channel


class SentinelTransport(Transport):
    """The transport with :class:`SentinelChannel`."""

    Channel = SentinelChannel


def install() -> None:
    """Make kombu's ``redis://``, ``rediss://``, ``redis+socket://`` and ``sentinel://`` addresses use these transports."""
    for alias in ("redis", "rediss", "redis+socket"):
        TRANSPORT_ALIASES[alias] = "broker.celery.transport:Transport"
    TRANSPORT_ALIASES["sentinel"] = "broker.celery.transport:SentinelTransport"
