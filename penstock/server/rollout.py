"""Carries out rollouts for ``penstock up``: starts the workers of a new version, has it serve, ends the old ones.

What is wanted is in Redis (:mod:`broker.rollouts`), and each step is one change of it, so that another process can go on
after a death. Every ``penstock up`` makes its own workers those of the version that serves. One of them, the keeper of the
pool, also starts new versions and decides when one serves.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from broker.db.errors import StoreError, StoreUnavailableError
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from jobs.rollouts import Mode, Rollout, RolloutError, RolloutState, Version, check_successor
from penstock.server.child import ChildSpec
from penstock.server.fleet import Part
from penstock.server.in_place import GoneError, Weights
from penstock.server.supervisor import Supervisor
from penstock.server.versions import is_ours, parts_of_version

LOOK_EVERY_S = 1.0
WATCH_EVERY_S = 0.3
KEEPER_TTL_MS = 10_000
_DRAIN_MARGIN_S = 10.0  # to give jobs back, and for the engine's own end


class PoolRollouts:
    """The rollouts of one pool.

    Args:
        store: of the queue.
        parts: the pool's workers as the settings name them.
        supervisor: runs the processes.
        spec_of: returns how to run a worker.
        report: takes a line for the person at the terminal.
        drain_s: how long running jobs of an old version may take.

    Attributes:
        running: the versions whose workers run here, with the names of their processes.
    """

    def __init__(
        self,
        store: JobStore,
        parts: Sequence[Part],
        supervisor: Supervisor,
        spec_of: Callable[[Part], ChildSpec],
        report: Callable[[str], None],
        drain_s: float,
    ) -> None:
        self._store, self._rollouts = store, Rollouts(store)
        self._parts = tuple(parts)
        self.pool = parts[0].settings.pool
        self._supervisor, self._spec_of, self._report = supervisor, spec_of, report
        self._drain_s = drain_s
        self._me = f"{platform.node()} {os.getpid()}"
        self.running: dict[Version, tuple[str, ...]] = {}

    async def begin(self, *, as_configured: bool = False) -> list[Part]:
        """Return the workers to start with: those of the version that serves.

        Args:
            as_configured: return to the version that the settings name.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        record = await self._rollouts.get(self.pool)
        serves = record.current
        if as_configured and serves != Version(self.pool):
            await self._rollouts.write(
                record,
                replace(record.ended(RolloutState.DONE), previous=serves, current=Version(self.pool)),
                flip=True,
            )
            serves = Version(self.pool)
        elif not is_ours(serves, self.pool):
            self._report(
                f"the pool {self.pool} forwards its jobs to the pool {serves.pool}, whose workers somebody else runs"
            )
            serves = Version(self.pool)
        parts = parts_of_version(self._parts, serves)
        if serves != Version(self.pool):
            self._report(
                f"the pool {self.pool} serves its version {_words(serves)}; `penstock rollout back` returns"
            )
        self.running[serves] = tuple(part.name for part in parts)
        return parts

    async def run(self) -> None:
        """Follow what is wanted, for ever."""
        while True:
            try:
                await self._look()
            except StoreError as error:
                if not isinstance(error, StoreUnavailableError):
                    self._report(f"the rollout of the pool {self.pool}: {error}")
            await asyncio.sleep(LOOK_EVERY_S)

    async def leave(self) -> None:
        """Let another process carry rollouts out."""
        with suppress(StoreError):
            await self._rollouts.leave(self.pool, self._me)
        await self._store.aclose()

    async def _keep(self) -> bool:
        return await self._rollouts.keep(self.pool, self._me, KEEPER_TTL_MS)

    async def _look(self) -> None:
        keeper = await self._keep()
        record = await self._rollouts.get(self.pool)
        if not is_ours(record.current, self.pool):
            return
        if record.state is RolloutState.STARTING and record.target is not None and keeper:
            await self._start(record, record.target)
        elif record.state is RolloutState.MOVING or set(self.running) != {record.current}:
            await self._serve(record.current)
            if keeper and record.state is RolloutState.MOVING:
                await self._finish(record)

    async def _start(self, record: Rollout, target: Version) -> None:
        """Bring the new version up, and have it serve."""
        self._report(f"the pool {self.pool}: starting its version {_words(target)}")
        stale = record.previous
        if record.mode is Mode.IN_PLACE:
            await self._start_in_place(record, target)
            return
        try:
            if record.mode is Mode.NO_SURGE:
                await self._note(record, "the old version ends; calls wait for the new one")
                own_s = min(self._drain_s, self._parts[0].settings.drain_timeout_s)
                await self._end([one for one in self.running if one != target], own_s)
            record = await self._bring_up(record, target)
            old, new = (
                await self._rollouts.facts(record.current.pool),
                await self._rollouts.facts(target.pool),
            )
            check_successor(old, new)
        except GoneError:  # it was aborted, or somebody else changed it
            await self._withdraw(record, target)
            return
        except RolloutError as error:
            await self._withdraw(record, target)
            await self._fail(record, str(error))
            return
        flipped = await self._rollouts.write(record, record.flipped(), flip=True, unheld=record.current.pool)
        if flipped is None:
            await self._withdraw(record, target)
            return
        self._report(f"the pool {self.pool}: its version {_words(target)} serves; the one before ends")
        await self._serve(target)
        await self._finish(flipped, stale)

    async def _start_in_place(self, record: Rollout, target: Version) -> None:
        """Have the running workers load other weights."""
        weights = Weights(self._store, self._rollouts, self._keep, self._model_of, self._drain_s)
        try:
            await weights.replace(record, target)
        except GoneError:
            await weights.put_back(record)
            return
        except RolloutError as error:
            await weights.put_back(record)
            await self._fail(record, str(error))
            return
        now = await self._rollouts.get(self.pool)
        flipped = await self._rollouts.write(now, now.flipped()) if now.target == target else None
        if flipped is None:
            await weights.put_back(record)
            return
        await self._serve(target)
        await self._finish(flipped)

    def _model_of(self, version: Version) -> str:
        """Return the model whose weights a version has.

        Raises:
            RolloutError: it is not known.
        """
        model = version.model or self._parts[0].settings.model
        if model is None:
            raise RolloutError("the pool's settings name no model, so there is no way back to its weights")
        return model

    async def _bring_up(self, record: Rollout, target: Version) -> Rollout:
        """Start a version's workers, and wait until all of them are ready. Return the record as it is then.

        Raises:
            RolloutError: one cannot start. The message has its last words.
            GoneError: the rollout is not wanted any more.
        """
        names = self.running.get(target, ())
        if any(self._supervisor.leaves(name) for name in names):  # they drain, as it served just before
            await self._end([target], self._drain_s)
            names = ()
        names = names or await self._launch(target, on_trial=True)
        while True:
            for name in names:
                if failure := self._supervisor.failure(name):
                    raise RolloutError(f"the new version did not start: {failure}")
            if await self._alive(target.pool, names):
                now = await self._rollouts.get(self.pool)
                if now.target != target or now.state is not RolloutState.STARTING:
                    raise GoneError
                return now
            with suppress(StoreUnavailableError):
                await self._keep()
                now = await self._rollouts.get(self.pool)
                if now.target != target or now.state is not RolloutState.STARTING:
                    raise GoneError
            await asyncio.sleep(WATCH_EVERY_S)

    async def _serve(self, current: Version) -> None:
        """Run the version that serves here, and end all others once its workers are ready."""
        names = self._renamed(current) or self.running.get(current)
        if names is None:
            names = await self._launch(current)
        while not await self._alive(current.pool, names):
            with suppress(StoreUnavailableError):
                await self._keep()
                now = await self._rollouts.get(self.pool)
                if now.current != current or now.state is RolloutState.STARTING:
                    return
            await asyncio.sleep(WATCH_EVERY_S)
        await self._end([one for one in self.running if one != current], self._drain_s)

    def _renamed(self, current: Version) -> tuple[str, ...] | None:
        """If workers of the version's pool run here, with other weights before, note what they are in their next lives."""
        same = [one for one in self.running if one.pool == current.pool and one != current]
        if not same:
            return None
        names = self.running[current] = self.running.pop(same[0])
        for part in parts_of_version(self._parts, current):
            self._supervisor.replace_spec(part.name, self._spec_of(part))
        return names

    async def _finish(self, record: Rollout, stale: Version | None = None) -> None:
        """Say that it is done once nothing is left of the version before. ``stale``: one that nobody returns to any more."""
        assert record.previous is not None  # noqa: S101 - it was flipped
        before = record.previous.pool
        while before != record.current.pool:
            with suppress(StoreUnavailableError):
                await self._keep()
                if (await self._rollouts.get(self.pool)).step != record.step:  # somebody wants the way back
                    return
                live = await self._rollouts.live(before)
                for one in live:
                    await self._store.drain(one["incarnation"], self._drain_s)
                if not live and not await self._rollouts.left(before):
                    break
            await asyncio.sleep(WATCH_EVERY_S)
        if await self._rollouts.write(record, record.ended(RolloutState.DONE)):
            self._report(f"the pool {self.pool}: the rollout of {_words(record.current)} is done")
        if stale is not None and stale.pool not in {before, record.current.pool, self.pool}:
            await self._rollouts.forget(stale.pool)

    async def _withdraw(self, record: Rollout, target: Version) -> None:
        """End the new version's workers. If the old ones have ended before, start them again; then calls need not wait."""
        await self._end([target], 0.0)
        if record.current not in self.running:
            names = await self._launch(record.current)
            while not await self._alive(record.current.pool, names):
                with suppress(StoreUnavailableError):
                    await self._keep()
                await asyncio.sleep(WATCH_EVERY_S)
        if record.mode is Mode.NO_SURGE:
            now = await self._rollouts.get(self.pool)
            await self._rollouts.write(now, now, unheld=record.current.pool)

    async def _fail(self, record: Rollout, message: str) -> None:
        now = await self._rollouts.get(self.pool)
        if now.target == record.target and now.state is RolloutState.STARTING:
            await self._rollouts.write(now, now.ended(RolloutState.FAILED, message))
        self._report(f"the pool {self.pool}: {message}")

    async def _note(self, record: Rollout, message: str) -> None:
        await self._rollouts.write(record, replace(record, message=message))

    async def _launch(self, version: Version, *, on_trial: bool = False) -> tuple[str, ...]:
        parts = parts_of_version(self._parts, version)
        for part in parts:
            try:
                await self._supervisor.start(replace(self._spec_of(part), on_trial=on_trial))
            except OSError as error:
                raise RolloutError(f"the new version cannot be started: {error}") from error
            self.running[version] = (*self.running.get(version, ()), part.name)
        return self.running[version]

    async def _alive(self, pool: str, names: Collection[str]) -> bool:
        """Whether each of these processes has a live lease."""
        wanted = self._supervisor.awaited(names)
        try:
            found = {one["pid"] for one in await self._rollouts.live(pool) if one["host"] == platform.node()}
        except StoreUnavailableError:
            return False
        self._supervisor.mark_ready(found)
        return wanted <= found

    async def _end(self, versions: Iterable[Version], drain_s: float) -> None:
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
            await asyncio.sleep(WATCH_EVERY_S)
        await self._supervisor.end(name)

    def _pids(self, names: Iterable[str]) -> set[int]:
        return {self._supervisor.pids[name] for name in names}


def _words(version: Version) -> str:
    told = " ".join(filter(None, (version.model, *version.engine_args)))
    return f"{version.pool} ({told})" if told else version.pool


@asynccontextmanager
async def followed(pools: Sequence[PoolRollouts]) -> AsyncIterator[None]:
    """Carry out the rollouts of these pools while the block runs."""
    tasks = [asyncio.create_task(one.run(), name=f"rollouts of {one.pool}") for one in pools]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(one.leave() for one in pools))
