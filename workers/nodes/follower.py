"""A remote node: it runs its rank of an engine whose first node is a worker elsewhere, and begins anew with that one."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import uuid
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from broker.db.errors import StoreError
from broker.jobs import JobStore
from broker.nodes import Node, NodeGroup

log = structlog.get_logger(__name__)

_END_S = 5.0
"""How long the engine's processes have to end by themselves."""
_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0


class Follower:
    """Runs one rank, again and again, until it is told to stop.

    vLLM's remote rank does not end with the first one. So this looks at the first node's lease: once it has seen it, and the
    lease is gone, the rank's processes are killed and started anew, for the first node's next start.

    Args:
        argv: flags of ``vllm serve`` for this rank.
        rank: 1 or more.
        beat_s: interval of its looks, and of its word that it lives, which holds for ``ttl_s``.
    """

    def __init__(
        self,
        store: JobStore,
        group: NodeGroup,
        argv: Sequence[str],
        rank: int,
        *,
        beat_s: float,
        ttl_s: float,
    ) -> None:
        self._store, self._group, self._argv, self._rank = store, group, tuple(argv), rank
        self._beat_s, self._ttl_s = beat_s, ttl_s
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End it. Called on its loop."""
        self._stop.set()

    async def run(self) -> None:
        """Run the rank until :meth:`stop`."""
        pause_s = _PAUSE_S
        while not self._stop.is_set():
            first_gone = await self._once()
            pause_s = _PAUSE_S if first_gone else min(2 * pause_s, _LONGEST_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(0 if first_gone else pause_s):
                    await self._stop.wait()
        with suppress(StoreError):
            await self._group.gone(self._store, self._rank)

    async def _once(self) -> bool:
        """Run the rank's processes once. Returns whether it ended as the first node did; else it would soon end again."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "workers.engines.vllm.headless"),
            msgspec.json.encode(self._argv).decode(),
            start_new_session=True,
        )
        log.info("node_started", rank=self._rank, pid=child.pid, master=self._group.master)
        node = Node(platform.node(), uuid.uuid4().hex)
        first: str | None = None
        first_gone = False
        try:
            while not self._stop.is_set() and child.returncode is None:
                try:
                    await self._group.say(self._store, self._rank, node, self._ttl_s)
                    alive = await self._group.first(self._store)
                except StoreError as error:
                    log.warning("nodes_unknown", error=str(error))
                else:
                    if first is None:
                        first = next(iter(alive), None)
                    elif first not in alive:
                        log.info("first_node_gone", rank=self._rank, worker=first)
                        first_gone = True
                        break
                await _first_of(self._stop.wait(), child.wait(), timeout_s=self._beat_s)
            if child.returncode is not None:
                log.error("node_ended", rank=self._rank, status=child.returncode)
        finally:
            await _end(child)
        return first_gone


async def _first_of(*waits: Coroutine[Any, Any, Any], timeout_s: float) -> None:
    tasks = [asyncio.create_task(one) for one in waits]
    _, pending = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)


async def _end(child: asyncio.subprocess.Process) -> None:
    """End the child and all that it started: they are one process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await child.wait()
    # Those that outlived their leader.
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
