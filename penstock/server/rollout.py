"""Carries out rollouts for ``penstock up``: starts the workers of a new version, has it serve, ends the old ones.

What is wanted is in Redis (:mod:`broker.rollouts`), and each step is one change of it, so that another process can go on
after a death. Every ``penstock up`` makes its own workers those of the version that serves. One of them, the keeper of the
pool, also starts new versions and decides when one serves.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from broker.db.errors import StoreError, StoreUnavailableError
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from jobs.rollouts import Mode, Rollout, RolloutError, RolloutState, Version, base_of, check_successor
from penstock.server.child import ChildSpec
from penstock.server.fleet import Part
from penstock.server.in_place import GoneError, Weights
from penstock.server.supervisor import Supervisor
from penstock.server.version_workers import VersionWorkers
from penstock.server.versions import is_ours

LOOK_EVERY_S = 1.0
WATCH_EVERY_S = 0.3
KEEPER_TTL_MS = 10_000
_NOT_COME_ABOUT = {RolloutState.FAILED, RolloutState.ABORTED}


class PoolRollouts:
    """The rollouts of one pool.

    Args:
        store: of the queue.
        parts: the pool's workers as the settings name them.
        supervisor: runs the processes.
        spec_of: returns how to run a worker.
        report: takes a line for the person at the terminal.
        drain_s: how long running jobs of an old version may take.
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
        self._report = report
        self._workers = VersionWorkers(store, parts, supervisor, spec_of, self._keep)
        self._drain_s = drain_s
        self._me = f"{platform.node()} {os.getpid()}"

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
        if serves != Version(self.pool):
            self._report(
                f"the pool {self.pool} serves its version {_words(serves)}; `penstock rollout back` returns"
            )
        return self._workers.begin(serves)

    async def run(self) -> None:
        """Follow what is wanted, for ever."""
        while True:
            try:
                await self._look()
            except StoreUnavailableError:
                pass  # what was begun is found again
            except Exception as error:  # noqa: BLE001 - what serves goes on, and an operator must be able to go back
                self._report(f"the rollout of the pool {self.pool} failed, and is tried again: {error!r}")
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
        elif record.state is RolloutState.MOVING or set(self._workers.running) != {record.current}:
            await self._serve(record.current)
            if keeper and record.state is RolloutState.MOVING:
                await self._finish(record)
        elif keeper and not record.under_way:
            await self._forget_others(record)
            await self._settle(record)

    async def _settle(self, record: Rollout) -> None:
        """After a rollout, do what is left to do, whichever process began it."""
        current = record.current
        if record.mode is Mode.IN_PLACE and record.state in _NOT_COME_ABOUT:
            await self._weights().put_strays_back(record)
        names = self._workers.running[current]
        if await self._rollouts.held(current.pool) and await self._workers.alive(current.pool, names):
            await self._rollouts.write(record, record, unheld=current.pool)  # calls need not wait any more

    def _weights(self) -> Weights:
        return Weights(self._store, self._rollouts, self._keep, self._model_of, self._drain_s)

    async def _start(self, record: Rollout, target: Version) -> None:
        """Bring the new version up, and have it serve."""
        self._report(f"the pool {self.pool}: starting its version {_words(target)}")
        if record.mode is Mode.IN_PLACE:
            await self._start_in_place(record, target)
            return
        try:
            if record.mode is Mode.NO_SURGE:
                await self._note(record, "the old version ends; calls wait for the new one")
                own_s = min(self._drain_s, self._parts[0].settings.drain_timeout_s)
                await self._workers.end(self._workers.others(target), own_s)
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
            if not await self._serves(target):
                await self._withdraw(record, target)
            return
        self._report(f"the pool {self.pool}: its version {_words(target)} serves; the one before ends")
        await self._serve(target)
        await self._finish(flipped)

    async def _start_in_place(self, record: Rollout, target: Version) -> None:
        """Have the running workers load other weights."""
        weights = self._weights()
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
            if not await self._serves(target):
                await weights.put_back(record)
            return
        await self._serve(target)
        await self._finish(flipped)

    async def _serves(self, version: Version) -> bool:
        """Whether a version serves by now, whoever wrote that. The next look follows the record then."""
        return (await self._rollouts.get(self.pool)).current == version

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
        names = await self._workers.fresh(target, self._drain_s)
        while True:
            if failure := self._workers.failure(names):
                raise RolloutError(f"the new version did not start: {failure}")
            if await self._workers.alive(target.pool, names):
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
        names = self._workers.renamed(current) or self._workers.running.get(current)
        if names is None:
            names = await self._workers.launch(current)
        while not await self._workers.alive(current.pool, names):
            with suppress(StoreUnavailableError):
                await self._keep()
                now = await self._rollouts.get(self.pool)
                if now.current != current or now.state is RolloutState.STARTING:
                    return
            await asyncio.sleep(WATCH_EVERY_S)
        await self._workers.end(self._workers.others(current), self._drain_s)

    async def _finish(self, record: Rollout) -> None:
        """Say that it is done once nothing is left of the version before."""
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

    async def _forget_others(self, record: Rollout) -> None:
        """Forget the versions that nobody returns to any more, as soon as they are empty."""
        kept = {one.pool for one in (record.current, record.previous) if one is not None} | {self.pool}
        for pool in await self._rollouts.pools() - kept:
            if base_of(pool)[0] == self.pool:
                await self._rollouts.forget(pool)

    async def _withdraw(self, record: Rollout, target: Version) -> None:
        """End the new version's workers. If the old ones have ended, start them again, until something else is wanted."""
        await self._workers.end([target], 0.0)
        if record.current in self._workers.running:
            return
        begun = await self._rollouts.get(self.pool)
        names = await self._workers.launch(record.current)
        while not await self._workers.alive(record.current.pool, names):
            with suppress(StoreUnavailableError):
                await self._keep()
                if (await self._rollouts.get(self.pool)).step != begun.step:
                    return
            await asyncio.sleep(WATCH_EVERY_S)

    async def _fail(self, record: Rollout, message: str) -> None:
        now = await self._rollouts.get(self.pool)
        if now.target == record.target and now.state is RolloutState.STARTING:
            await self._rollouts.write(now, now.ended(RolloutState.FAILED, message))
        self._report(f"the pool {self.pool}: {message}")

    async def _note(self, record: Rollout, message: str) -> None:
        await self._rollouts.write(record, replace(record, message=message))


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
