"""Redis clients, configured once for everyone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.errors import StoreUnavailableError
from broker.urls import without_password

_CONNECTIONS = 32


class _PlainSend(AbstractConnection):
    """Sends without ``asyncio.wait_for``, in which Python 3.11 can lose a cancellation (python/cpython#86296).

    redis-py uses it for every command: a task that was cancelled meanwhile would go on as if nothing had happened.
    """

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> None:
        """As redis-py's, with its errors."""
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]
        if isinstance(command, str):
            command = command.encode()
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command([command] if isinstance(command, bytes) else command)
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("timeout writing to the socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"error writing to the socket: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # half a command may have been sent
            raise


def connect(url: str, *, retries: int = 3, timeout_s: float = 5.0, text: bool = True) -> Redis:
    """Make a client; it connects when first used.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        retries: how often a command is sent again after a broken connection.
        timeout_s: longest wait for a reply, and for one of the client's connections to be free.
        text: replies are decoded as UTF-8; else they are bytes.

    Raises:
        ValueError: the address cannot be read.
    """
    # A burst waits its turn for a connection; redis-py's usual pool would fail what exceeds its size.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=timeout_s,
        decode_responses=text,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(3.0, timeout_s),
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
    pool.connection_class = type("Connection", (_PlainSend, pool.connection_class), {})
    return Redis.from_pool(pool)


def ping(url: str) -> None:
    """Return if a server answers at ``url``, asked once, with a short patience.

    Raises:
        StoreUnavailableError: none does; the message names the address, without its password.
    """
    try:
        with SyncRedis.from_url(url, socket_connect_timeout=3, socket_timeout=5, retry=None) as client:
            client.ping()
    except (RedisError, OSError, ValueError) as error:
        raise StoreUnavailableError(f"cannot reach Redis at {without_password(url)}: {error}") from error
