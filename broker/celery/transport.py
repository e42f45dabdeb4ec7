"""Kombu's Redis transport, for workers that claim.

- A worker's channel pops no list: it asks as its :class:`~broker.celery.claimer.Claimer` says, and delivers each claimed job
  as a Celery message. Other processes' channels, such as that of a caller of Celery's remote control, are kombu's own.
- Kombu builds a new redis-py client, with its table of some hundred callbacks, for every command of another kind: three
  times a job for the task events alone. The connections belong to the pool, so one client per channel suffices.

It also follows the master: a demoted master's refusal counts as a broken connection, and ``sentinel://`` addresses ask for
the master at every connection.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from broker.celery.claimer import Claimer
from broker.claims import Claim
from broker.db.faults import Faults, is_fault
from broker.db.functions import is_missing, load_command
from broker.db.sentinel import SyncMasterConnection, SyncTlsMasterConnection, client_options
from monitoring import failpoints

CLAIMER = "penstock_claimer"
"""Transport option: a worker's :class:`~broker.celery.claimer.Claimer`."""

FAULTS = "penstock_faults"
"""Transport option: the process's :class:`~broker.db.faults.Faults`, where a refused claim is reported."""


class Channel(redis.Channel):  # type: ignore[misc]
    """A channel that keeps its client and, in a worker, claims."""

    do_restore = False  # of messages, when a connection breaks: a claim ends with its lease
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

    @property
    def _claimer(self) -> Claimer | None:
        claimer: Claimer | None = self.connection.client.transport_options.get(CLAIMER)
        return claimer

    def _brpop_start(self, timeout: float | None = None) -> None:
        claimer = self._claimer
        if claimer is None:
            super()._brpop_start(timeout)
        elif (command := claimer.command()) is not None:
            self._in_poll = self.client.connection
            self._brpop_sent_at = monotonic()
            self.client.connection.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        claimer = self._claimer
        if claimer is None:
            read: bool = super()._brpop_read(**options)
            return read
        try:
            try:
                claims = claimer.receive(self._reply())
            except self.connection_errors:
                self.client.connection.disconnect()  # the next round connects again
                raise
            self._deliver(claimer, claims)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def close(self) -> None:
        """Close. Kombu would wait for the bell's reply, and a bell that others need would be lost with it."""
        claimer = self._claimer if self._in_poll else None
        if claimer is not None and claimer.waiting:
            self._stop_waiting(claimer)
        super().close()

    def _stop_waiting(self, claimer: Claimer) -> None:
        """Ring the worker's own bell, and ring again the one that woke it instead."""
        client, own = self._create_client(), claimer.own_bell
        with suppress(RedisError, OSError):  # then others find the work a second later
            client.lpush(own, 1)
            reply = self.client.parse_response(self.client.connection, "FCALL")
            claimer.receive(reply)
            if reply is not None and reply[0] != own.encode():
                client.lpush(reply[0], 1)
                client.ltrim(reply[0], 0, 0)  # it may have rung meanwhile
            client.delete(own)
        self._in_poll = None

    def _reply(self) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "FCALL")
        except ResponseError as error:
            if is_missing(error):
                self._load_library()
                raise Empty from None
            raise self._failure(error, "claim") from error

    def _load_library(self) -> None:
        try:
            self._create_client().execute_command(*load_command())
        except ResponseError as error:
            raise self._failure(error, "FUNCTION LOAD") from error

    def _failure(self, error: ResponseError, command: str) -> Exception:
        if is_fault(error):
            # Celery would connect again and again; so this is none of its errors, and ends it.
            faults: Faults = self.connection.client.transport_options[FAULTS]
            return faults.translate(error, command)
        # Redis is loading, was demoted (READONLY, UNBLOCKED), and so on.
        return RedisConnectionError(f"cannot claim: {error}")

    def _deliver(self, claimer: Claimer, claims: list[Claim]) -> None:
        """Hand claims to Celery. A worker takes every lane of its pool, so any queue that it still consumes will do."""
        queues = self.active_queues
        try:
            for claim in claims if queues else []:
                failpoints.hit("worker.claimed")
                queue, message = claimer.message(claim)
                self.connection._deliver(message, queue if queue in queues else queues[0])  # noqa: SLF001 - as kombu
        finally:
            claimer.return_the_rest()


class SentinelChannel(Channel):
    """The same channel to the master that the sentinels name, see :func:`broker.db.urls.celery_options`."""

    from_transport_options = (*Channel.from_transport_options, "sentinels")
    connection_class = SyncMasterConnection
    connection_class_ssl = SyncTlsMasterConnection
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
