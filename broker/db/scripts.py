"""The Lua scripts, and a runner that sends everything asked of it meanwhile in one pipeline."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, TypeAlias

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from broker.db.errors import StoreUnavailableError
from broker.db.keys import Keys

Arg: TypeAlias = str | bytes | int | float

NAMES = (
    "accept",
    "append",
    "batch_cancel",
    "batch_create",
    "batch_hold",
    "batch_lease",
    "batch_pause",
    "batch_retire",
    "batch_step",
    "bury",
    "cancel",
    "chunk_commit",
    "chunk_end",
    "chunk_open",
    "chunk_settle",
    "chunk_take",
    "claim",
    "coordinator_beat",
    "drain",
    "file_announce",
    "file_create",
    "file_delete",
    "file_orphans",
    "finish",
    "heartbeat",
    "list_page",
    "move",
    "pause",
    "place",
    "purge",
    "reap",
    "register",
    "release",
    "task_ask",
    "task_end",
    "task_keep",
    "task_take",
    "watch",
)
_SHARED = ("_lib", "_message", "_queue", "_ahead", "_jobs", "_batches", "_tasks")
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Script:
    """One atomic transition."""

    source: str
    sha: str
    reads_only: bool
    """It may run where nothing may be written, on a master that was demoted."""


def load_scripts(keys: Keys) -> dict[str, Script]:
    """Read every script and put before it what it uses of the key table and the shared functions.

    No more than that: a server makes the functions anew at every call, used or not, which for all of them took longer than
    most scripts themselves.

    Each begins with ``#!lua`` and its flags: Redis then refuses it before it starts, or runs it to its end. When memory
    is out, only what makes data bigger without need is refused (no ``allow-oom``): new jobs, chunks and results. Leases
    are still kept, and jobs claimed, cancelled, given back and reaped.
    """
    room = resources.files("broker") / "lua"
    shared = _definitions([(room / f"{name}.lua").read_text() for name in _SHARED])
    scripts = {}
    for name in NAMES:
        flags, _, body = (room / f"{name}.lua").read_text().partition("\n")
        used = _used(shared, body)
        source = "\n".join([flags, keys.lua("".join(used) + body), *used, body])
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        scripts[name] = Script(source, sha, "no-writes" in flags)
    return scripts


def _definitions(sources: Sequence[str]) -> dict[str, str]:
    """Cut shared Lua source into its definitions, by name: each begins with ``local`` at the start of a line."""
    found = {}
    for source in sources:
        for piece in re.split(r"^(?=local )", source, flags=re.MULTILINE)[1:]:
            named = re.match(r"local (?:function )?(\w+)", piece)
            if named is not None:
                found[named[1]] = re.sub(r"^--.*\n", "", piece, flags=re.MULTILINE)
    return found


def _used(shared: Mapping[str, str], body: str) -> list[str]:
    """Return the definitions that a script uses, directly or through others, in their order."""
    wanted: set[str] = set()
    todo = [body]
    while todo:
        new = (set(re.findall(r"\w+", todo.pop())) & shared.keys()) - wanted
        wanted |= new
        todo += [shared[name] for name in new]
    return [piece for name, piece in shared.items() if name in wanted]


_Call: TypeAlias = tuple[str, tuple[Arg, ...], asyncio.Future[Any]]


@dataclass(slots=True)
class _Line:
    """Calls that wait for the next round trip, and the task that makes those."""

    calls: deque[_Call] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class ScriptRunner:
    """Runs scripts in the order they were asked for, all that gathered during a round trip in the next one.

    This is group commit: under load a round trip (and, with ``appendfsync always``, a disk flush) is shared by many
    jobs, and when idle nothing waits. The client may send a script twice after a broken connection, so each script
    recognises its own repetition.

    Scripts that write nothing stand in a line of their own: a demoted master answers them, while it refuses the others
    and so breaks their connection.
    """

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._scripts = load_scripts(keys)
        self._transitions, self._looks = _Line(), _Line()
        self._loaded = False

    async def call(self, name: str, *args: Arg) -> Any:
        """Run a script and return its reply.

        Raises:
            StoreUnavailableError: Redis could not be reached, or refused.
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
            except (RedisError, OSError) as error:
                replies = [error] * len(batch)
            except asyncio.CancelledError as error:
                # Nobody cancels this task; redis-py's own time-outs have let one escape after a frozen process woke up.
                replies = [RedisConnectionError(f"interrupted: {error!r}")] * len(batch)
            for (name, _, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    failure = StoreUnavailableError(f"{name}: {reply}")
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
