"""A rollout in place: the running workers of a pool load other weights, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from broker.db.errors import StoreUnavailableError
from broker.jobs import JobStore
from broker.rollouts import Rollouts
from jobs.rollouts import Rollout, RolloutError, RolloutState, Version

LOOK_EVERY_S = 0.2
_MOST_DEATHS = 2
"""Workers that may end under an order before it counts as their cause."""


class GoneError(Exception):
    """The rollout is not wanted any more."""


class Weights:
    """The weights of one pool's workers, on whichever machine.

    Args:
        keep: prolongs the right to carry out rollouts.
        model_of: returns the model whose weights a version has.
        drain_s: time for the running jobs of each worker.
    """

    def __init__(
        self,
        store: JobStore,
        rollouts: Rollouts,
        keep: Callable[[], Awaitable[object]],
        model_of: Callable[[Version], str],
        drain_s: float,
    ) -> None:
        self._store, self._rollouts, self._keep = store, rollouts, keep
        self._model_of, self._drain_s = model_of, drain_s
        self._ident = ""
        self._ordered: set[str] = set()
        self._deaths = 0

    async def replace(self, record: Rollout, target: Version) -> None:
        """Have all workers load the target's weights.

        Raises:
            RolloutError: one cannot.
            GoneError: the rollout is not wanted any more.
        """
        self._model_of(record.current)  # there must be a way back
        self._ident = f"{record.pool} {record.step} {target.model}"

        async def check() -> None:
            now = await self._rollouts.get(record.pool)
            if now.target != target or now.state is not RolloutState.STARTING:
                raise GoneError

        model = self._model_of(target)
        while True:
            found = await self._rollouts.live(target.pool)
            worker = next((one for one in found if not self._has(one)), None)
            if worker is None:
                return
            self._ordered.add(worker["incarnation"])
            await self._one(worker, self._ident, model, check)

    async def put_back(self, record: Rollout) -> None:
        """Have the workers that loaded the target's weights load those of the version that serves, as far as they can.

        One that has the order and still drains loads them after that: it carries its orders out one after another.
        """

        async def check() -> None:
            pass

        for worker in await self._rollouts.live(record.current.pool):
            if worker["incarnation"] in self._ordered and not self._refused(worker):
                with suppress(RolloutError):
                    await self._one(worker, f"{self._ident} back", self._model_of(record.current), check)

    async def put_strays_back(self, record: Rollout) -> None:
        """After a rollout that did not come about, do the same with workers whose orders another process gave.

        It may have died before it put them back.
        """

        async def check() -> None:
            pass

        for worker in await self._rollouts.live(record.current.pool):
            said = worker.get("weights") or {}
            if not said or said.get("error"):
                continue
            with suppress(RolloutError):
                model = self._model_of(record.current)
                if said["model"] != model:
                    await self._one(worker, f"{record.pool} {record.step} back", model, check)

    def _refused(self, worker: Mapping[str, Any]) -> bool:
        """Whether a worker could not load the target's weights, and has those of before."""
        said = worker.get("weights") or {}
        return said.get("id") == self._ident and bool(said.get("error"))

    def _has(self, worker: Mapping[str, Any]) -> bool:
        """Whether a worker has loaded the target's weights."""
        said = worker.get("weights") or {}
        return said.get("id") == self._ident and not said.get("error")

    async def _one(
        self, worker: Mapping[str, Any], ident: str, model: str, check: Callable[[], Awaitable[None]]
    ) -> None:
        """Have one worker load weights, and wait until it says so.

        Raises:
            RolloutError: it cannot, or workers end under it.
            GoneError: as ``check`` says.
        """
        incarnation = worker["incarnation"]
        await self._store.reload(incarnation, ident, model, self._drain_s)
        while True:
            with suppress(StoreUnavailableError):
                await self._keep()
                await check()
                live = {one["incarnation"]: one for one in await self._store.workers()}
                if incarnation not in live:
                    self._deaths += 1
                    if self._deaths >= _MOST_DEATHS:
                        msg = f"{self._deaths} workers ended while they loaded the weights of {model}; see their logs"
                        raise RolloutError(msg)
                    return
                said = live[incarnation].get("weights") or {}
                if said.get("id") == ident:
                    if said.get("error"):
                        raise RolloutError(f"{worker.get('name', incarnation)}: {said['error']}")
                    return
            await asyncio.sleep(LOOK_EVERY_S)
