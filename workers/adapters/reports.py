"""What a worker says of its adapters, in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from broker.adapters import Adapters
from broker.db.errors import StoreError
from jobs.adapters import Adapter

log = structlog.get_logger(__name__)

_PAUSE_S = 0.1
"""Between two rounds: of an adapter that comes and goes meanwhile, only the last is said."""

_AGAIN_S = 1.0


class Reports:
    """The last report of each adapter that is not written yet.

    Args:
        worker: the incarnation.
        on_changed: called if a report came too late: the adapter was removed or replaced.
    """

    def __init__(self, records: Adapters, worker: str, on_changed: Callable[[], None]) -> None:
        self._records, self._worker, self._on_changed = records, worker, on_changed
        self._unsaid: dict[str, Callable[[], Awaitable[bool | None]]] = {}
        self._some = asyncio.Event()

    def loaded(self, adapter: Adapter) -> None:
        """Say that the engine has it."""
        self._put(adapter, partial(self._records.loaded, self._worker, adapter))

    def stored(self, adapter: Adapter) -> None:
        """Say that there is a copy, which the engine had once."""
        self._put(adapter, partial(self._records.stored, self._worker, adapter))

    def failed(self, adapter: Adapter, reason: str) -> None:
        """Say that the engine cannot have it."""
        self._put(adapter, partial(self._records.failed, self._worker, adapter, reason))

    def dropped(self, adapter: Adapter) -> None:
        """Say that there is nothing of it any more."""
        self._put(adapter, partial(self._records.dropped, self._worker, adapter.name))

    def _put(self, adapter: Adapter, say: Callable[[], Awaitable[bool | None]]) -> None:
        self._unsaid[adapter.name] = say
        self._some.set()

    async def keep(self) -> None:
        """Write them as they come, until it is cancelled."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._unsaid:
                name, say = next(iter(self._unsaid.items()))
                try:
                    known = await say()
                except StoreError as error:
                    log.warning("adapters_not_reported", error=str(error))
                    # It may be refused each time: the others first.
                    self._unsaid[name] = self._unsaid.pop(name)
                    await asyncio.sleep(_AGAIN_S)
                    continue
                if self._unsaid.get(name) is say:
                    del self._unsaid[name]
                if known is False:
                    self._on_changed()
            await asyncio.sleep(_PAUSE_S)
