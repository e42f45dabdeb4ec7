"""The worker processes of one pool's versions on this machine: start them, see whether they are ready, end them."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from jobs.rollouts import RolloutError, Version
from penstock.server.child import ChildSpec
from penstock.server.fleet import Part
from penstock.server.supervisor import Supervisor
from penstock.server.versions import parts_of_version

LOOK_EVERY_S = 0.3
_DRAIN_MARGIN_S = 10.0  # to give jobs back, and for the engine's own end


class VersionWorkers:
    """The workers of each version that runs here.

    Args:
        parts: the pool's workers as the settings name them.
        supervisor: runs the processes.
        spec_of: returns how to run a worker.
        keep: awaited while something takes long.

    Attributes:
        running: the versions, with the names of their processes.
    """

    def __init__(
        self,
        store: JobStore,
        parts: Sequence[Part],
        supervisor: Supervisor,
        spec_of: Callable[[Part], ChildSpec],
        keep: Callable[[], Awaitable[object]],
    ) -> None:
        self._store, self._rollouts = store, Rollouts(store)
        self._parts, self._supervisor, self._spec_of, self._keep = tuple(parts), supervisor, spec_of, keep
        self.running: dict[Version, tuple[str, ...]] = {}

    def begin(self, version: Version) -> list[Part]:
        """Note that the caller starts a version, and return its workers."""
        parts = parts_of_version(self._parts, version)
        self.running[version] = tuple(part.name for part in parts)
        return parts

    def others(self, version: Version) -> list[Version]:
        """Return the versions that run here beside one."""
        return [one for one in self.running if one != version]

    async def fresh(self, version: Version, drain_s: float) -> tuple[str, ...]:
        """Start a version's workers on trial, unless they run; return their names. Those that drain are waited for before.

        Raises:
            RolloutError: one cannot be started.
        """
        names = self.running.get(version, ())
        if any(self._supervisor.leaves(name) for name in names):
            await self.end([version], drain_s)
            names = ()
        return names or await self.launch(version, on_trial=True)

    def failure(self, names: Iterable[str]) -> str | None:
        """Return why one of these processes on trial does not start; None: none has failed."""
        return next((why for name in names if (why := self._supervisor.failure(name))), None)

    def renamed(self, current: Version) -> tuple[str, ...] | None:
        """If workers of the version's pool run here, with other weights before, note what they are in their next lives."""
        same = [one for one in self.running if one.pool == current.pool and one != current]
        if not same:
            return None
        names = self.running[current] = self.running.pop(same[0])
        for part in parts_of_version(self._parts, current):
            self._supervisor.replace_spec(part.name, self._spec_of(part))
        return names

    async def launch(self, version: Version, *, on_trial: bool = False) -> tuple[str, ...]:
        """Start a version's workers, and return their names.

        Raises:
            RolloutError: one cannot be started.
        """
        parts = parts_of_version(self._parts, version)
        for part in parts:
            try:
                await self._supervisor.start(replace(self._spec_of(part), on_trial=on_trial))
            except OSError as error:
                raise RolloutError(f"the new version cannot be started: {error}") from error
            self.running[version] = (*self.running.get(version, ()), part.name)
        return self.running[version]

    async def alive(self, pool: str, names: Collection[str]) -> bool:
        """Whether each of these processes has a live lease."""
        wanted = self._supervisor.awaited(names)
        try:
            found = {one["pid"] for one in await self._rollouts.live(pool) if one["host"] == platform.node()}
        except StoreUnavailableError:
            return False
        self._supervisor.mark_ready(found)
        return wanted <= found

    async def end(self, versions: Iterable[Version], drain_s: float) -> None:
        """Drain the workers of these versions, and wait for their ends."""
        for version in versions:
            names = self.running.get(version, ())
            live = await self._rollouts.live(version.pool)
            for name in names:
                self._supervisor.let_go(name)
            for one in live:
                if one["host"] == platform.node() and one["pid"] in self._pids(names):
                    await self._store.drain(one["incarnation"], drain_s)
            async with asyncio.TaskGroup() as ends:
                for name in names:
                    ends.create_task(self._end_child(name, drain_s))
            self.running.pop(version, None)

    async def _end_child(self, name: str, drain_s: float) -> None:
        """Wait for a worker that was told to drain. One that is not ready to hear that is ended."""
        ready = self._supervisor.was_ready(name)
        deadline = asyncio.get_running_loop().time() + (drain_s + _DRAIN_MARGIN_S if ready else 0.0)
        while not self._supervisor.gone(name) and asyncio.get_running_loop().time() < deadline:
            with suppress(StoreUnavailableError):
                await self._keep()
            await asyncio.sleep(LOOK_EVERY_S)
        await self._supervisor.end(name)

    def _pids(self, names: Iterable[str]) -> set[int]:
        return {self._supervisor.pids[name] for name in names}
