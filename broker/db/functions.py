"""Calls the functions of our library. Calls that gather during one round trip go out together in the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from broker.db.calls.base import READS, Call
from broker.db.client import Command, exchange
from broker.db.faults import NO_FUNCTION, Faults
from broker.db.keys import Keys
from broker.db.library import Library, answer_to, library

R = TypeVar("R")

_BATCH = 512
_GROUP_BYTES = 262_144

_Group: TypeAlias = list[tuple[Call[Any], tuple[bytes, ...]]]
_Waiting: TypeAlias = tuple[Call[Any], tuple[bytes, ...], asyncio.Future[Any]]


def _groups(calls: _Group) -> Iterator[_Group]:
    """Yield, in their order, the calls that share a command: those of one function that follow each other."""
    group: _Group = []
    size = 0
    for call, blobs in calls:
        size += sum(map(len, blobs))
        full = len(group) >= call.together or size > _GROUP_BYTES
        alone = call.alone() or (group and group[-1][0].alone())
        if group and (full or alone or type(call) is not type(group[0][0])):
            yield group
            group, size = [], sum(map(len, blobs))
        group.append((call, blobs))
    yield group


def is_missing(reply: object) -> bool:
    """Whether Redis refused a call because the library is not loaded: it is new, or was emptied."""
    return isinstance(reply, ResponseError) and str(reply).endswith(NO_FUNCTION)


def load_command() -> tuple[str, ...]:
    """Return the command that loads the library. Loading it again does no harm."""
    return ("FUNCTION", "LOAD", "REPLACE", library().source)


async def drop_libraries(client: Redis, names: Collection[str]) -> list[str]:
    """Delete these libraries; return the names of those that were there.

    A process that still calls one finds it missing and loads it again, so nothing breaks.
    """
    gone = []
    for name in names:
        try:
            await client.function_delete(name)
        except ResponseError as error:
            if not str(error).endswith("Library not found"):  # another process was faster
                raise
        else:
            gone.append(name)
    return gone


@dataclass(slots=True)
class _Line:
    """Calls that wait for the next round trip, and the task that makes the round trips."""

    calls: deque[_Waiting] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Functions:
    """Calls functions in the order of the calls; the calls made during one round trip share the next.

    Of these, calls of one function that follow each other share a command, if its class says so.

    This is group commit: under load many jobs share a round trip (and, with ``appendfsync always``, a disk flush). When
    idle nothing waits. The client may send a call twice after a broken connection, so each function recognises its own
    repetition.

    Functions that write nothing have a line of their own: a demoted master answers them, but refuses the others and so
    breaks their connection.
    """

    def __init__(self, client: Redis, keys: Keys, faults: Faults) -> None:
        self._client = client
        self._namespace = keys.namespace
        self._faults = faults
        self._library: Library = library()
        self._transitions, self._looks = _Line(), _Line()

    async def call(self, call: Call[R], *blobs: bytes) -> R:
        """Call a function and return its answer.

        Args:
            blobs: bodies, as the function's class says.

        Raises:
            StoreUnavailableError: Redis could not be reached, or cannot run functions now.
            StoreFaultError: the function failed.
        """
        answer, _ = await self.submit(call, *blobs)
        return answer

    def submit(self, call: Call[R], *blobs: bytes) -> asyncio.Future[tuple[R, list[bytes]]]:
        """Queue a call; its place in the order is taken now. Return the future of its answer, and of the blobs with it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        line = self._looks if call.flags == READS else self._transitions
        line.calls.append((call, blobs, future))
        if line.task is None or line.task.done():
            line.task = loop.create_task(self._drain(line.calls))
        return future

    async def _drain(self, calls: deque[_Waiting]) -> None:
        while calls:
            batch = [calls.popleft() for _ in range(min(len(calls), _BATCH))]
            try:
                replies = await self._send(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                replies = [error] * len(batch)
            except asyncio.CancelledError as error:
                # Nobody cancels this task; redis-py's own time-outs have let one escape after a frozen process woke up.
                replies = [RedisConnectionError(f"interrupted: {error!r}")] * len(batch)
            for (call, _, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                try:
                    if isinstance(reply, Exception):
                        raise reply
                    future.set_result(answer_to(type(call), reply))
                except Exception as error:  # noqa: BLE001 - nobody may wait for ever
                    failure = self._faults.translate(error, call.function())
                    failure.__cause__ = error
                    future.set_exception(failure)

    async def _send(self, batch: list[_Waiting]) -> list[Any]:
        replies = await self._run(batch)
        missing = [i for i, reply in enumerate(replies) if is_missing(reply)]
        if missing:  # a server knows all functions or none, so the order of a batch is kept
            await self._client.execute_command(*load_command())  # type: ignore[no-untyped-call]
            for i, reply in zip(missing, await self._run([batch[i] for i in missing]), strict=True):
                replies[i] = reply
        return replies

    async def _run(self, batch: list[_Waiting]) -> list[Any]:
        groups = [*_groups([(call, blobs) for call, blobs, _ in batch])]
        replies = await exchange(self._client, [self._command(group) for group in groups])
        found: list[Any] = []
        for group, reply in zip(groups, replies, strict=True):
            found += reply if len(group) > 1 and isinstance(reply, list) else [reply] * len(group)
        return found

    def _command(self, group: _Group) -> Command:
        if len(group) == 1:
            return self._library.command(self._namespace, *group[0])
        return self._library.command_of_all(self._namespace, group)

    async def aclose(self) -> None:
        """Wait for what was asked for."""
        tasks = [line.task for line in (self._transitions, self._looks) if line.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
