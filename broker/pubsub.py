"""One pub/sub channel, kept alive: messages in order, and a call whenever some may have been missed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

_decode = msgspec.msgpack.Decoder(list[str]).decode


class Subscriber:
    """Receives one channel's messages (MessagePack lists of strings) on the running event loop.

    Args:
        client: a client with ``text=False``.
        channel: what to subscribe to.
        on_message: takes one message; must not block or raise.
        on_gap: called after every (re)connection, when messages may have been missed.
    """

    def __init__(
        self,
        client: Redis,
        channel: str,
        on_message: Callable[[list[str]], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._client = client
        self._channel = channel
        self._on_message = on_message
        self._on_gap = on_gap
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._subscribed = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the subscription stands, as far as is known."""
        return self._subscribed.is_set()

    async def start(self, timeout_s: float = 10.0) -> None:
        """Subscribe, and return once the server has confirmed.

        Raises:
            TimeoutError: it did not within ``timeout_s``; the attempt goes on.
        """
        self._task = asyncio.create_task(self._listen(), name=f"subscriber {self._channel}")
        async with asyncio.timeout(timeout_s):
            await self._subscribed.wait()

    async def stop(self) -> None:
        """Unsubscribe and close the client."""
        self._stopping = True  # redis-py may swallow a cancellation while it reconnects
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _listen(self) -> None:
        delay_s = 0.05
        while not self._stopping:
            try:
                async with self._client.pubsub() as pubsub:
                    await pubsub.subscribe(self._channel)
                    while not self._stopping:
                        # The time-out lets redis-py's health check find a dead connection.
                        message = await pubsub.get_message(timeout=5.0)
                        if message is None:
                            continue
                        if message["type"] == "message":
                            self._on_message(_decode(message["data"]))
                        elif message["type"] == "subscribe":
                            delay_s = 0.05
                            self._subscribed.set()
                            self._on_gap()
            except (RedisError, OSError) as error:
                log.warning("subscription_lost", channel=self._channel, error=str(error))
                self._subscribed.clear()
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, 1.0)
