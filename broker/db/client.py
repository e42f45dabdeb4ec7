"""Redis clients, configured in one place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from hiredis import pack_command
from redis import ConnectionPool as SyncPool
from redis import Redis as SyncRedis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import AbstractBackoff, ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.db.errors import StoreUnavailableError
from broker.db.sentinel import client_options, connection_class, sync_connection_class
from broker.db.urls import sentinels_of, without_password

T = TypeVar("T")
Command: TypeAlias = tuple[Any, ...]
"""A command's name and its arguments: texts, bytes and numbers."""

_CONNECTIONS = 32
_RENEW_S = 1.0
_APART_BYTES = 16 * 1024


class _Retry(Retry):
    """Retries within a bounded time: a stalled server does not answer sooner if asked again, and the caller must know."""

    def __init__(self, backoff: AbstractBackoff, retries: int, within_s: float) -> None:
        super().__init__(backoff, retries)
        self._within_s = within_s

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,  # noqa: FBT001, FBT002 - redis-py's signature
    ) -> T:
        """As redis-py's."""
        give_up_at = time.monotonic() + self._within_s

        def worth_it(error: Exception) -> bool:
            return time.monotonic() < give_up_at and (is_retryable is None or is_retryable(error))

        return await super().call_with_retry(do, fail, worth_it, with_failure_count)


class _Connection(AbstractConnection):
    """Leaves a server that is no longer the master, and survives cancellation.

    It sends without ``asyncio.wait_for``, in which Python 3.11 can lose a cancellation (python/cpython#86296). redis-py
    uses it for every command, so a task that is cancelled meanwhile would continue.
    """

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's, but a demoted master's refusal counts as a broken connection: the next one finds the new master."""
        try:
            return await super().read_response(*args, **options)
        except (ReadOnlyError, MasterDownError) as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"no longer the master: {error}") from error

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
        except RuntimeError as error:
            closed = type(error) is RuntimeError and self._writer is not None and self._writer.is_closing()
            await self.disconnect(nowait=True)
            if not closed:
                raise
            # uvloop's, for a write to a connection that has just closed
            raise RedisConnectionError(f"error writing to the socket: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # half a command may have been sent
            raise

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands together; return their replies, not decoded. An error reply is an exception in its place.

        redis-py's pipeline makes a timer, four coroutines and a copy of the options for each command.
        """
        await self.send_packed_command([part for command in commands for part in packed(command)])
        loop, limit_s = asyncio.get_running_loop(), self.socket_timeout
        replies: list[Any] = []
        try:
            async with asyncio.timeout(limit_s) as timer:
                renew_at = loop.time() + _RENEW_S
                for _ in commands:
                    reply = await self._parser.read_response(disable_decoding=True)  # type: ignore[attr-defined]
                    replies.append(reply)
                    if limit_s is not None and loop.time() > renew_at:  # the limit is that of each reply
                        renew_at = loop.time() + _RENEW_S
                        timer.reschedule(loop.time() + limit_s)
        except TimeoutError:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("timeout reading from the socket") from None
        except OSError as error:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"error reading from the socket: {error}") from error
        except BaseException:
            await self.disconnect(nowait=True)  # replies of these commands may still come
            raise
        self.next_health_check = loop.time() + self.health_check_interval
        for reply in replies:
            if isinstance(reply, ReadOnlyError | MasterDownError):
                await self.disconnect(nowait=True)
                raise RedisConnectionError(f"no longer the master: {reply}") from reply
        return replies


def packed(command: Command) -> list[bytes]:
    """Return what is sent for a command. A large last argument, such as a request's body, is not copied."""
    last = command[-1]
    if not isinstance(last, bytes) or len(last) < _APART_BYTES:
        return [pack_command(command)]
    others = pack_command(command[:-1]).partition(b"\r\n")[2]
    return [b"*%d\r\n%b$%d\r\n" % (len(command), others, len(last)), last, b"\r\n"]


async def exchange(client: Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands together, again after a broken connection; return their replies, not decoded.

    An error reply is an exception in its place.

    Args:
        client: one that :func:`connect` made.

    Raises:
        RedisError: Redis cannot be reached.
    """
    pool = client.connection_pool
    connection: _Connection = await pool.get_connection()  # type: ignore[no-untyped-call]

    async def reconnect(_: Exception) -> None:
        await connection.disconnect(nowait=True)

    try:
        return await connection.retry.call_with_retry(lambda: connection.exchange(commands), reconnect)
    finally:
        await pool.release(connection)


def is_stray_cancellation() -> bool:
    """Return whether nobody asked for the CancelledError that is being handled.

    redis-py's own time-outs have let one escape after a frozen process woke up. It is to be taken as a broken connection.
    """
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


def connect(url: str, *, retries: int = 3, timeout_s: float = 5.0, text: bool = True) -> Redis:
    """Make a client; it connects when first used.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://``, ``sentinel://`` or ``rediss+sentinel://``.
        retries: how often a command is sent again after a broken connection.
        timeout_s: longest wait for a reply, and for a free connection of the client.
        text: decode replies as UTF-8; otherwise they are bytes.

    Raises:
        ValueError: the address cannot be read.
    """
    options: dict[str, Any] = {
        "max_connections": _CONNECTIONS,
        "timeout": timeout_s,
        "decode_responses": text,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(3.0, timeout_s),
        "health_check_interval": 15,
        "retry": _Retry(ExponentialBackoff(cap=0.5, base=0.05), retries, within_s=0.9 * timeout_s),
    }
    # Callers in a burst wait for a connection; redis-py's usual pool would refuse those beyond its size.
    if sentinels := sentinels_of(url):
        pool = BlockingConnectionPool(
            connection_class=connection_class(sentinels), **options, **client_options(sentinels)
        )
    else:
        pool = BlockingConnectionPool.from_url(url, **options)
    pool.connection_class = type("Connection", (_Connection, pool.connection_class), {})
    return Redis.from_pool(pool)


def connect_sync(url: str, **options: Any) -> SyncRedis:
    """Make a client without asyncio and with short time-outs; close it after use.

    Args:
        url: as for :func:`connect`.
        options: redis-py's, such as ``decode_responses``.

    Raises:
        ValueError: the address cannot be read.
    """
    options = {"socket_connect_timeout": 3.0, "socket_timeout": 5.0} | options
    sentinels = sentinels_of(url)
    if sentinels is None:
        return SyncRedis.from_url(url, **options)
    return SyncRedis.from_pool(
        SyncPool(sync_connection_class(sentinels), **options, **client_options(sentinels))
    )


def ping(url: str) -> None:
    """Return if a server answers at ``url``; one try, with a short time-out.

    Raises:
        StoreUnavailableError: none answers; the message names the address without its password.
    """
    try:
        with connect_sync(url, retry=None) as client:
            client.ping()
    except (RedisError, OSError, ValueError) as error:
        raise StoreUnavailableError(f"cannot reach Redis at {without_password(url)}: {error}") from error
