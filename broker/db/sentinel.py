"""Connections to the current master, which Redis Sentinel names anew for every connection.

So after a broken connection, or one to a demoted master, the next connection leads to the new master. This holds for every
client: the api's and the workers' (asyncio), and Celery's (threads).
"""

from __future__ import annotations

from typing import Any

from redis import Connection as SyncConnection
from redis import Sentinel as SyncSentinel
from redis import SSLConnection as SyncSSLConnection
from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

from broker.db.urls import Sentinels, sentinel_options

_PATIENCE_S = 1.0  # with one sentinel, as there are others


async def find_master(sentinels: Sentinels) -> tuple[str, int]:
    """Return the master's host and port.

    Raises:
        redis.exceptions.ConnectionError: no sentinel knows a master that is up.
    """
    options = _options(sentinels, Retry(NoBackoff(), 0))
    async with Sentinel(sentinels.hosts, sentinel_kwargs=options) as finder:  # type: ignore[no-untyped-call]
        host, port = await finder.discover_master(sentinels.master)
        return host, int(port)


def find_master_sync(sentinels: Sentinels) -> tuple[str, int]:
    """As :func:`find_master`, without asyncio."""
    options = _options(sentinels, SyncRetry(NoBackoff(), 0))
    with SyncSentinel(sentinels.hosts, sentinel_kwargs=options) as finder:  # type: ignore[no-untyped-call]
        host, port = finder.discover_master(sentinels.master)
        return host, int(port)


def _options(sentinels: Sentinels, retry: Any) -> dict[str, Any]:
    patience = {"socket_timeout": _PATIENCE_S, "socket_connect_timeout": _PATIENCE_S, "retry": retry}
    return patience | sentinel_options(sentinels)


def client_options(sentinels: Sentinels) -> dict[str, Any]:
    """Return the arguments of redis-py's pools for connections of the classes below, besides ``connection_class``."""
    return {
        "sentinels": sentinels,
        "db": sentinels.database,
        "username": sentinels.username,
        "password": sentinels.password,
        **dict(sentinels.tls or ()),
    }


class _FollowsMaster:
    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    async def _connect(self) -> None:
        self.host, self.port = await find_master(self._sentinels)
        await super()._connect()  # type: ignore[misc]


class MasterConnection(_FollowsMaster, Connection):
    """A connection to the master."""


class TlsMasterConnection(_FollowsMaster, SSLConnection):
    """A connection to the master, with TLS."""


class _SyncFollowsMaster:
    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(**options)
        self._sentinels = sentinels

    def _connect(self) -> Any:
        self.host, self.port = find_master_sync(self._sentinels)
        return super()._connect()  # type: ignore[misc]


class SyncMasterConnection(_SyncFollowsMaster, SyncConnection):
    """A connection to the master, without asyncio."""


class SyncTlsMasterConnection(_SyncFollowsMaster, SyncSSLConnection):
    """A connection to the master, with TLS and without asyncio."""


def connection_class(sentinels: Sentinels) -> type[Connection]:
    """Return the class of connections to this master."""
    return MasterConnection if sentinels.tls is None else TlsMasterConnection


def sync_connection_class(sentinels: Sentinels) -> type[SyncConnection]:
    """As :func:`connection_class`, without asyncio."""
    return SyncMasterConnection if sentinels.tls is None else SyncTlsMasterConnection
