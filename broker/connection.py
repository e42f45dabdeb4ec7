"""Redis clients, configured once for everyone."""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

_CONNECTIONS = 32


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
    return Redis.from_pool(pool)
