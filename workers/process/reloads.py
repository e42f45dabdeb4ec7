"""Other weights in the running engine, by order of a rollout: no claims meanwhile, and no request of both versions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from workers.engines.base import Engine, EngineDeadError, ReloadRefusedError
from workers.swapping.effects import Effects

log = structlog.get_logger(__name__)

_ENDS = "the worker ends, so its weights stay as they are"


class Order(msgspec.Struct, frozen=True):
    """An order, see :meth:`broker.registry.Registry.reload`."""

    id: str
    model: str
    drain_s: float


class Reloads:
    """Carries out the orders, one after another. All of it is called on the engine's loop.

    Args:
        engine: not yet started.
        announce: has the worker's record sent now.
        takes_turns: whether the worker is a member of a swap group, whose device may be another's.

    Attributes:
        said: what the worker's record has of it: ``weights``, with the ``id`` of the last order that is done, the ``model``,
            and an ``error`` if the weights stayed as they were. Empty: there was no order.
        busy: the worker claims nothing now.
        done: how often the weights were replaced.
    """

    def __init__(self, engine: Engine, announce: Callable[[], None], takes_turns: Callable[[], bool]) -> None:
        self._engine, self._announce, self._takes_turns = engine, announce, takes_turns
        self._orders: asyncio.Queue[Order] = asyncio.Queue()
        self._heard: str | None = None
        self.said: dict[str, Any] = {}
        self.busy = False
        self.done = 0

    def order(self, word: str) -> None:
        """Take an order. Each heartbeat repeats the last one."""
        try:
            order = msgspec.json.decode(word, type=Order)
        except msgspec.DecodeError as error:
            log.warning("order_not_known", order="reload", error=str(error))
            return
        if order.id != self._heard:
            self._heard = order.id
            self._orders.put_nowait(order)

    async def run(self, effects: Effects) -> None:
        """Carry out orders, for ever.

        Raises:
            EngineDeadError: the engine died of one, or its weights are of no version.
        """
        while True:
            order = await self._orders.get()
            error = await self._carry_out(order, effects)
            self.said = {"weights": {"id": order.id, "model": order.model, "error": error}}
            if error is None:
                log.info("weights_replaced", model=order.model)
            else:
                log.error("weights_not_replaced", model=order.model, error=error)
            self._announce()

    async def _carry_out(self, order: Order, effects: Effects) -> str | None:
        """Return why the weights stayed as they were; None: they are the other ones."""
        if self._takes_turns():
            return "a worker of a swap group cannot replace its weights; start the new version in its place (--no-surge)"
        if effects.leaves():
            return _ENDS
        try:
            await self._engine.check_weights(order.model)  # while jobs run
        except ReloadRefusedError as refused:
            return str(refused)
        self.busy = True
        self._announce()
        if not await effects.rest(order.drain_s):
            self.busy = False
            return _ENDS
        try:
            await self._engine.reload(order.model)
        except ReloadRefusedError as refused:  # the files looked right; what is loaded now is of no version
            raise EngineDeadError(str(refused), reached=False) from refused
        self.done += 1
        self.busy = False
        effects.admit()
        return None
