"""Runs the Lua scripts. Calls that gather during one round trip go out together in the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from broker.db.faults import Faults
from broker.db.keys import Keys
from broker.db.scripts import load_scripts

Arg: TypeAlias = str | bytes | int | float

_BATCH = 512

_Call: TypeAlias = tuple[str, tuple[Arg, ...], asyncio.Future[Any]]


@dataclass(slots=True)
class _Line:
    """Calls that wait for the next round trip, and the task that makes the round trips."""

    calls: deque[_Call] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class ScriptRunner:
    """Runs scripts in the order of their calls; the calls made during one round trip share the next.

    This is group commit: under load many jobs share a round trip (and, with ``appendfsync always``, a disk flush). When
    idle nothing waits. The client may send a script twice after a broken connection, so each script recognises its own
    repetition.

    Scripts that write nothing have a line of their own: a demoted master answers them, but refuses the others and so
    breaks their connection.
    """

    def __init__(self, client: Redis, keys: Keys, faults: Faults) -> None:
        self._client = client
        self._faults = faults
        self._scripts = load_scripts(keys)
        self._transitions, self._looks = _Line(), _Line()
        self._loaded = False

    async def call(self, name: str, *args: Arg) -> Any:
        """Run a script and return its reply.

        Raises:
            StoreUnavailableError: Redis could not be reached, or cannot run scripts now.
            StoreFaultError: the script failed.
        """
        return await self.submit(name, args)

    def submit(self, name: str, args: Sequence[Arg]) -> asyncio.Future[Any]:
        """Queue a script and return the future of its reply; its place in the order is taken now."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        line = self._looks if self._scripts[name].reads_only else self._transitions
        line.calls.append((name, tuple(args), future))
        if line.task is None or line.task.done():
            line.task = loop.create_task(self._drain(line.calls))
        return future

    async def _drain(self, calls: deque[_Call]) -> None:
        while calls:
            batch = [calls.popleft() for _ in range(min(len(calls), _BATCH))]
            try:
                replies = await self._send(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                replies = [error] * len(batch)
            except asyncio.CancelledError as error:
                # Nobody cancels this task; redis-py's own time-outs have let one escape after a frozen process woke up.
                replies = [RedisConnectionError(f"interrupted: {error!r}")] * len(batch)
            for (name, _, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    failure = self._faults.translate(reply, name)
                    failure.__cause__ = reply
                    future.set_exception(failure)
                else:
                    future.set_result(reply)

    async def _send(self, batch: list[_Call]) -> list[Any]:
        if not self._loaded:
            await self._load()
        replies = await self._evaluate(batch)
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            await self._load()
            for i, reply in zip(unknown, await self._evaluate([batch[i] for i in unknown]), strict=True):
                replies[i] = reply
        return replies

    async def _evaluate(self, batch: list[_Call]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for name, args, _ in batch:
            pipe.execute_command("EVALSHA", self._scripts[name].sha, 0, *args)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies

    async def _load(self) -> None:
        """Load every script at once: a server knows all or none of them, so the order of a batch is kept."""
        pipe = self._client.pipeline(transaction=False)
        for script in self._scripts.values():
            pipe.execute_command("SCRIPT LOAD", script.source)
        await pipe.execute()
        self._loaded = True

    async def aclose(self) -> None:
        """Wait for what was asked for."""
        tasks = [line.task for line in (self._transitions, self._looks) if line.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
