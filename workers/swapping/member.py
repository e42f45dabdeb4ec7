"""This worker as a member of a swap group: it says what it does, decides for all when it is its turn, and obeys.

Before its engine loads for the first time it has a lease and no record, since what it serves is not known yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from broker.reaper import reap_forever
from broker.swapping import Said, SwapGroup, View
from jobs.swapping import Rules, decide, expected_wake_ms
from jobs.worker_states import WorkerState
from monitoring import failpoints
from workers.swapping.effects import Effects

log = structlog.get_logger(__name__)

LOOK_S = 0.25
"""Time between two looks. An order to look comes at once."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the last swaps of this member took, in milliseconds; None: there was none."""

    wake_ms: float | None = None
    sleep_ms: float | None = None

    def woke(self, took_ms: float) -> Costs:
        """Return them with one more wake."""
        return Costs(_mean(self.wake_ms, took_ms), self.sleep_ms)

    def slept(self, took_ms: float) -> Costs:
        """Return them with one more way to sleep."""
        return Costs(self.wake_ms, _mean(self.sleep_ms, took_ms))


def _mean(old: float | None, new: float) -> float:
    return new if old is None else (old + new) / 2


class SwapMember:
    """All of it is called on the engine's loop.

    Args:
        worker: this worker's incarnation.
        leaves: says whether the worker ends.
        changed: called when its state has changed.

    Attributes:
        state: ``ready``, ``asleep`` or ``waking``.
        wake_ms: until a job that comes now can run, probably.
    """

    def __init__(
        self,
        store: JobStore,
        group: SwapGroup,
        rules: Rules,
        worker: str,
        *,
        heartbeat_s: float,
        reap_interval_s: float,
        leaves: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self._store, self._group, self._rules, self._worker = store, group, rules, worker
        self._heartbeat_s, self._reap_interval_s = heartbeat_s, reap_interval_s
        self._leaves, self._changed = leaves, changed
        self._look_now = asyncio.Event()
        self._costs = Costs()
        self._has = False
        now_s = time.monotonic()
        self._away_s = self._busy_s = self._ready_s = self._asked_s = now_s
        self._boots = True
        self.state = WorkerState.WAKING
        self.wake_ms = 0.0

    def look(self) -> None:
        """Look at the group soon."""
        self._look_now.set()

    # ---- the first load ----------------------------------------------------------------------------------------

    async def board(self) -> asyncio.Task[None]:
        """Wait until the devices are this member's, for the first time.

        Returns:
            What prolongs its lease, and ends those of others, until it is registered; to be cancelled then.

        Raises:
            StoreUnavailableError: Redis cannot be reached.
        """
        await self._store.heartbeat(self._worker, first=True)
        lease = asyncio.create_task(self._live(), name="lease before the start")
        try:
            await self._wait_to_board()
        except BaseException:
            lease.cancel()
            raise
        return lease

    async def _wait_to_board(self) -> None:
        said = False
        while not await self._boards():
            if not said:
                log.info("swap_waits", worker=self._worker)
                said = True
            await asyncio.sleep(LOOK_S)
        self._has = True
        self._away_s = time.monotonic()
        failpoints.hit("swap.granted")

    async def _boards(self) -> bool:
        try:
            view = await self._see()
            return view is not None and (view.holds or await self._group.take())
        except StoreUnavailableError as error:
            log.debug("swap_not_seen", error=str(error))
            return False

    async def _live(self) -> None:
        """Prolong the lease, and reap: a member that was killed may hold the devices, and no other process may be there."""
        await asyncio.gather(self._prolong(), reap_forever(self._store, self._reap_interval_s))

    async def _prolong(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            with suppress(StoreUnavailableError):
                await self._store.heartbeat(self._worker, first=True)

    def boarded(self) -> None:
        """Say that the engine has loaded for the first time."""
        self._boots = False
        self._enter(WorkerState.READY)

    # ---- from then on ------------------------------------------------------------------------------------------

    async def run(self, effects: Effects) -> None:
        """Take turns with the others until cancelled.

        Raises:
            EngineStartError: the engine cannot take the devices again.
            EngineDeadError: the engine is gone.
        """
        while True:
            if effects.busy:
                self._busy_s = time.monotonic()
            try:
                view = await self._see()
                if view is not None and not self._leaves():
                    await self._obey(view, effects)
            except StoreUnavailableError as error:
                log.debug("swap_not_seen", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._look_now.wait()
            self._look_now.clear()

    async def give(self) -> None:
        """Leave the group. The engine must have stopped."""
        with suppress(StoreUnavailableError):
            await self._group.give(leaves=True, failed=self._boots and self._has and not self._leaves())
            if self._boots:  # it never registered, so nobody else ends its lease
                await self._store.bury(self._worker)

    async def _obey(self, view: View, effects: Effects) -> None:
        wanted = self._worker in view.wanted
        if self._has and not view.holds:
            log.error("swap_grant_lost", worker=self._worker)
            await self._sleep(effects)
        elif self._has and not wanted:
            await self._sleep(effects)
        elif not self._has and wanted:
            if self.state is WorkerState.ASLEEP:
                self._enter(WorkerState.WAKING)
            if view.holds or await self._group.take():
                await self._wake(effects)
        elif not self._has and view.holds:
            await self._group.give()  # Redis did not hear it
        elif self.state is WorkerState.WAKING:
            self._enter(WorkerState.ASLEEP)  # another one is wanted by now

    async def _sleep(self, effects: Effects) -> None:
        self._enter(WorkerState.ASLEEP)
        took_ms = await effects.free_devices()
        if took_ms is None:
            return
        self._costs, self._has = self._costs.slept(took_ms), False
        self._away_s = time.monotonic()
        failpoints.hit("swap.freed")
        await self._group.give()
        log.info("engine_asleep", took_ms=round(took_ms))

    async def _wake(self, effects: Effects) -> None:
        self._has = True
        failpoints.hit("swap.granted")
        effects.waited(time.monotonic() - self._asked_s)
        took_ms = await effects.take_devices()
        self._costs = self._costs.woke(took_ms)
        self._enter(WorkerState.READY)
        effects.admit()
        log.info("engine_awake", took_ms=round(took_ms))

    def _enter(self, state: WorkerState) -> None:
        self.state, now_s = state, time.monotonic()
        if state is WorkerState.READY:
            self._ready_s = self._busy_s = now_s
        elif state is WorkerState.WAKING:
            self._asked_s = now_s
        self._changed()

    # ---- looks -------------------------------------------------------------------------------------------------

    async def _see(self) -> View | None:
        """Report, decide if it is this member's turn, and return the group as it is then; None: the lease is lost."""
        view = await self._group.report(self._said(), has=self._has)
        if view is None:
            return None
        if view.decides:
            wanted = decide(view.members, view.wanted, self._rules)
            if wanted != view.wanted and await self._group.want(view.wanted, wanted):
                log.info("swap_decided", wanted=sorted(wanted), before=sorted(view.wanted))
                view = View(view.members, wanted, view.holds, decides=False)
        if self.state is not WorkerState.READY:
            mine = next(one for one in view.members if one.worker == self._worker)
            self.wake_ms = expected_wake_ms(mine, view.members, view.wanted, self._rules)
        return view

    def _said(self) -> Said:
        now_s = time.monotonic()

        def since(moment_s: float) -> float:
            return round((now_s - moment_s) * 1000)

        ready = self.state is WorkerState.READY
        return Said(
            boots=self._boots,
            leaves=self._leaves(),
            awake_ms=since(self._ready_s) if ready else None,
            idle_ms=since(self._busy_s) if ready else None,
            away_ms=0.0 if self._has else since(self._away_s),
            wake_ms=self._costs.wake_ms,
            sleep_ms=self._costs.sleep_ms,
        )
