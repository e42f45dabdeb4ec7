"""Token counts: the api asks a live worker to count a prompt's tokens. One message goes out, one comes back.

The request goes out on the worker's control channel and names the asking process. The answer comes on that process's own
channel, as an event under the request's id (see :class:`broker.events.hub.EventHub`). Pub/sub guarantees no delivery, so
after a time-out the api continues without a count.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from broker.db.keys import Keys
from broker.events.hub import EventHub
from jobs.lanes import Lane

log = structlog.get_logger(__name__)

Count: TypeAlias = Callable[[str, bytes, int], Awaitable[int | None]]
"""Takes an endpoint, a request's raw body and its engine priority; returns its prompt tokens, or None if they cannot be
counted."""

MAX_BYTES = 4 * 1024 * 1024
"""Longest body of a request: the server disconnects a subscriber with 32 MiB unread (``client-output-buffer-limit pubsub``),
and the worker would lose its other orders."""

AT_ONCE = 4
"""Requests that a worker handles at once, beside one of bulk; its tokenizer serves running requests first."""

_KIND = "count"
_BULK = Lane.BULK.engine_priority
_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class CountRequest:
    """A request to count the prompt tokens of one submission.

    Attributes:
        process: the api process that wants the answer.
        body: the client's raw JSON body.
        patience_s: seconds until the api stops waiting.
        priority: of the lane that the submission is for (``Lane.engine_priority``).
    """

    id: str
    process: str
    endpoint: str
    body: bytes
    patience_s: float
    priority: int = 0

    def encode(self) -> bytes:
        """Write the message."""
        facts = [_KIND, self.id, self.process, self.endpoint, str(self.patience_s), self.body.decode()]
        if self.priority:  # a worker of the version before reads no more than six
            facts.append(str(self.priority))
        return _pack(facts)

    @classmethod
    def decode(cls, message: list[str]) -> Self | None:
        """Read a message of a control channel; None: it is another command."""
        if message[0] != _KIND:
            return None
        _, ident, process, endpoint, patience_s, body, *priority = message
        return cls(ident, process, endpoint, body.encode(), float(patience_s), *map(int, priority))


class CountClient:
    """Asks for one api process.

    Args:
        hub: the process's event hub, on whose channel answers come.
        patience_s: longest wait for an answer, in seconds.
    """

    def __init__(self, client: Redis, hub: EventHub, keys: Keys, patience_s: float) -> None:
        self._client = client
        self._hub = hub
        self._keys = keys
        self._patience_s = patience_s

    async def count(
        self, workers: Sequence[str], endpoint: str, body: bytes, priority: int = 0
    ) -> int | None:
        """Ask one of ``workers`` (incarnations) to count the tokens of a request's longest prompt.

        Args:
            priority: see :class:`CountRequest`; calls are counted before bulk.

        Returns:
            Tokens; None: no worker answered with a number in time.
        """
        if len(body) > MAX_BYTES:
            return None
        request = CountRequest(
            uuid.uuid4().hex, self._hub.process, endpoint, body, self._patience_s, priority
        )
        with self._hub.inbox(request.id) as inbox:
            try:
                async with asyncio.timeout(self._patience_s):
                    if not await self._publish(workers, request.encode()):
                        return None
                    events = await inbox.take()
            except TimeoutError:
                log.warning("count_unanswered", endpoint=endpoint, patience_s=self._patience_s)
                return None
            except (RedisError, OSError) as error:
                log.warning("count_not_asked", error=str(error))
                return None
        return int(events[0][1]) if events and events[0][1] else None

    async def _publish(self, workers: Sequence[str], message: bytes) -> bool:
        """Send to the first worker, in random order, that listens. Return whether one did."""
        for worker in random.sample(workers, len(workers)):
            if await self._client.publish(self._keys("ctl_channel", worker), message):
                return True
        return False


class CountServer:
    """Answers requests in a worker.

    Args:
        count: the engine's.
    """

    def __init__(self, client: Redis, keys: Keys, count: Count) -> None:
        self._client = client
        self._keys = keys
        self._count = count
        self._gate, self._bulk_gate = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, request: CountRequest) -> None:
        """Answer in the background."""
        task = asyncio.get_running_loop().create_task(self._answer(request), name=f"count {request.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Drop unanswered requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, request: CountRequest) -> None:
        tokens: int | None = None
        gate = self._gate if request.priority < _BULK else self._bulk_gate
        try:
            async with asyncio.timeout(request.patience_s), gate:
                tokens = await self._count(request.endpoint, request.body, request.priority)
        except TimeoutError:
            log.warning("count_too_slow", endpoint=request.endpoint, size=len(request.body))
            return
        except Exception:
            log.exception("count_failed", endpoint=request.endpoint)
        answer = [request.id, "", "" if tokens is None else str(tokens)]
        try:
            await self._client.publish(self._keys("api_channel", request.process), _pack(answer))
        except (RedisError, OSError) as error:
            log.warning("count_not_told", error=str(error))
