"""Asking a live worker to count a prompt's tokens: one message there, one back, nothing stored.

The question goes out on the worker's control channel and names the asking process; the answer comes on that process's own
channel, as an event under the question's id (see :class:`broker.events.hub.EventHub`). Pub/sub promises nothing, so silence
is an answer too: the asker goes on without one.
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

log = structlog.get_logger(__name__)

Count: TypeAlias = Callable[[str, bytes], Awaitable[int | None]]
"""Takes an endpoint and a request's raw body; returns its prompt tokens, or None where they cannot be told."""

MAX_BYTES = 4 * 1024 * 1024
"""A larger body is not asked about: the server cuts off a subscriber that has 32 MiB unread (``client-output-buffer-limit
pubsub``), and with it the worker's other commands."""

AT_ONCE = 4
"""Questions that a worker works on at once; its tokenizer is there for running requests first."""

_KIND = "count"
_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class CountRequest:
    """What a worker is asked: how many prompt tokens does its engine make of this request?

    Attributes:
        id: of this question, unique.
        process: the api process that wants the answer.
        endpoint: the OpenAI endpoint.
        body: the client's raw JSON body.
        patience_s: nobody listens any more after this many seconds.
    """

    id: str
    process: str
    endpoint: str
    body: bytes
    patience_s: float

    def encode(self) -> bytes:
        """Write the message."""
        facts = [_KIND, self.id, self.process, self.endpoint, str(self.patience_s), self.body.decode()]
        return _pack(facts)

    @classmethod
    def decode(cls, message: list[str]) -> Self | None:
        """Read a message of a control channel; None: it is another command."""
        if message[0] != _KIND:
            return None
        _, ident, process, endpoint, patience_s, body = message
        return cls(ident, process, endpoint, body.encode(), float(patience_s))


class CountClient:
    """Asks on behalf of one api process.

    Args:
        client: for publishing.
        hub: the process's event hub, on whose channel answers come.
        keys: of the namespace.
        patience_s: longest wait for an answer, in seconds.
    """

    def __init__(self, client: Redis, hub: EventHub, keys: Keys, patience_s: float) -> None:
        self._client = client
        self._hub = hub
        self._keys = keys
        self._patience_s = patience_s

    async def count(self, workers: Sequence[str], endpoint: str, body: bytes) -> int | None:
        """Have one of ``workers`` (incarnations) count the tokens of a request's longest prompt.

        Returns:
            Tokens; None where nobody said a number in time.
        """
        if len(body) > MAX_BYTES:
            return None
        question = CountRequest(uuid.uuid4().hex, self._hub.process, endpoint, body, self._patience_s)
        with self._hub.inbox(question.id) as inbox:
            try:
                async with asyncio.timeout(self._patience_s):
                    if not await self._publish(workers, question.encode()):
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
        """Send to the first worker, in random order, that listens. Returns whether one did."""
        for worker in random.sample(workers, len(workers)):
            if await self._client.publish(self._keys("ctl_channel", worker), message):
                return True
        return False


class CountServer:
    """Answers questions in a worker.

    Args:
        client: for publishing.
        keys: of the namespace.
        count: the engine's.
    """

    def __init__(self, client: Redis, keys: Keys, count: Count) -> None:
        self._client = client
        self._keys = keys
        self._count = count
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, question: CountRequest) -> None:
        """Answer in the background."""
        task = asyncio.get_running_loop().create_task(self._answer(question), name=f"count {question.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Leave what is unanswered so."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, question: CountRequest) -> None:
        tokens: int | None = None
        try:
            async with asyncio.timeout(question.patience_s), self._gate:
                tokens = await self._count(question.endpoint, question.body)
        except TimeoutError:
            log.warning("count_too_slow", endpoint=question.endpoint, size=len(question.body))
            return
        except Exception:
            log.exception("count_failed", endpoint=question.endpoint)
        answer = [question.id, "", "" if tokens is None else str(tokens)]
        try:
            await self._client.publish(self._keys("api_channel", question.process), _pack(answer))
        except (RedisError, OSError) as error:
            log.warning("count_not_told", error=str(error))
