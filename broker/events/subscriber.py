"""One pub/sub channel, kept alive: messages in order, and a call whenever some may have been missed.

A subscription can stay on a server to which nobody publishes any more, such as a master that was demoted while its address
moved. So a silent channel gets an echo, through a script that only a master runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from broker.db.client import is_stray_cancellation
from broker.db.errors import StoreFaultError
from broker.db.faults import Faults

log = structlog.get_logger(__name__)

_decode = msgspec.msgpack.Decoder(list[str]).decode

_ECHO = "#!lua flags=allow-oom\nreturn redis.call('PUBLISH', ARGV[1], ARGV[2])"
_PAUSE_S = 1.0
_FAULT_PAUSE_S = 30.0
"""Longest pause between two tries: while Redis is away, and while it refuses for a fault."""

_NOTHING = msgspec.msgpack.encode([])


async def _as_it_came(message: list[Any]) -> list[Any]:
    """Take a message in the place of redis-py's handler, which writes the text of each for a log."""
    return message


class Subscriber:
    """Receives one channel's messages (MessagePack lists of strings) on the running event loop.

    Args:
        client: a client with ``text=False``.
        on_message: takes one message; must not block or raise.
        on_gap: called after every (re)connection, and after a message that could not be read: messages may have been
            missed.
        faults: where a refusal that is a fault is reported.
        silence_s: seconds without a message after which the connection is tested, and after as many more dropped.
    """

    def __init__(
        self,
        client: Redis,
        channel: str,
        on_message: Callable[[list[str]], None],
        on_gap: Callable[[], None],
        faults: Faults | None = None,
        silence_s: float = 5.0,
    ) -> None:
        self._client = client
        self._channel = channel
        self._on_message = on_message
        self._on_gap = on_gap
        self._faults = faults or Faults()
        self._silence_s = silence_s
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._subscribed = asyncio.Event()
        self._lost_at = float("-inf")

    @property
    def deaf_s(self) -> float:
        """Seconds since the subscription was lost; 0: it is there; infinite: nothing opens it again."""
        if self._task is None or self._task.done():
            return float("inf")
        return 0.0 if self._subscribed.is_set() else time.monotonic() - self._lost_at

    async def start(self, timeout_s: float = 10.0) -> None:
        """Subscribe, and return when the server has confirmed.

        Raises:
            TimeoutError: it did not within ``timeout_s``; the attempt continues.
        """
        self._lost_at = time.monotonic()
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
        delay_s, longest_s = 0.05, _PAUSE_S
        while not self._stopping:
            try:
                async with self._client.pubsub(push_handler_func=_as_it_came) as pubsub:
                    await pubsub.subscribe(self._channel)
                    async for message in self._messages(pubsub):
                        if message["type"] == "message":
                            self._take(message["data"])
                        elif message["type"] == "subscribe":
                            delay_s = 0.05
                            self._subscribed.set()
                            self._on_gap()
            except (RedisError, OSError) as error:
                ours = self._faults.translate(error, "SUBSCRIBE")
                log.warning("subscription_lost", channel=self._channel, error=str(ours))
                longest_s = _FAULT_PAUSE_S if isinstance(ours, StoreFaultError) else _PAUSE_S
            except asyncio.CancelledError:
                if self._stopping or not is_stray_cancellation():
                    raise
                log.warning("subscription_lost", channel=self._channel, error="interrupted")
            except (
                Exception
            ):  # a defect of ours, or of redis-py: a process that hears nothing hangs its callers
                log.exception("subscription_failed", channel=self._channel)
                longest_s = _FAULT_PAUSE_S
            if self._subscribed.is_set():
                self._subscribed.clear()
                self._lost_at = time.monotonic()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, longest_s)

    def _take(self, data: bytes) -> None:
        """Pass a message on. One that cannot be read or handled does not end the subscription, but is a gap in it."""
        try:
            if words := _decode(data):  # else an echo
                self._on_message(words)
        except Exception:
            log.exception("message_not_taken", channel=self._channel, size=len(data))
            self._on_gap()

    async def _messages(self, pubsub: PubSub) -> AsyncIterator[dict[str, Any]]:
        """Yield messages as they come.

        Raises:
            RedisError: the connection broke, or leads to a server to which nobody publishes.
        """
        echo_at = 0.0
        while not self._stopping:
            # The time-out lets redis-py's health check find a dead connection.
            message = await pubsub.get_message(timeout=self._silence_s)
            now = asyncio.get_running_loop().time()
            if message is not None:
                echo_at = 0.0
                yield message
            elif echo_at and now - echo_at > 0.9 * self._silence_s:
                raise RedisConnectionError("no echo: messages no longer reach this subscription")
            elif not echo_at:
                try:
                    await self._client.eval(_ECHO, 0, self._channel, _NOTHING)
                    echo_at = now
                except ResponseError as error:
                    # Mostly this server writes nothing now, so that no message can be missed.
                    ours = self._faults.translate(error, "an echo")
                    log.debug("echo_refused", channel=self._channel, error=str(ours))
