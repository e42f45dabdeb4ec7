"""The places for adapters in the engine: who has one, who must leave, and who waits.

A version of an adapter stays in its place while a request uses it. If all places are in use, one of them after a while takes
no new requests, so that nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from workers.engines.base import EngineDeadError

_PATIENCE_S = 1.0
"""How long a version waits for a place that becomes free by itself."""


@dataclass(slots=True, eq=False)
class Place:
    """A version in the engine.

    Attributes:
        name: the adapter's.
        folder: its files; it stands for the version.
        users: requests that run with it.
        pinned: it is not evicted.
        used_s: when it was last used, by a clock; 0: never.
        loaded_s: when it was loaded.
        loading: it is not there yet.
        leaving: it takes no new requests, and is unloaded after the last one.
        going: unloads it.
    """

    name: str
    folder: Path
    users: int = 0
    pinned: bool = False
    used_s: float = 0.0
    loaded_s: float = 0.0
    loading: bool = True
    leaving: bool = False
    going: asyncio.Task[None] | None = None


class Places:
    """All of them.

    Args:
        load: loads a version, given its name and folder, as :meth:`workers.engines.base.Engine.load_adapter` does.
        unload: unloads it.
        most: how many there are.
        on_evicted: called with a place whose version has left.
        clock: seconds, forward only.
    """

    def __init__(
        self,
        load: Callable[[str, Path], Awaitable[None]],
        unload: Callable[[Path], Awaitable[None]],
        most: int,
        on_evicted: Callable[[Place], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load, self._unload, self._most = load, unload, most
        self._on_evicted, self._clock = on_evicted, clock
        self._places: dict[Path, Place] = {}
        self._wanted: Counter[Path] = Counter()  # requests that wait for a version to be loaded
        self._turn = asyncio.Lock()  # one version is loaded at a time, in order of arrival
        self._freed = asyncio.Event()

    def folders(self) -> frozenset[Path]:
        """Return the folders that the engine may read."""
        return frozenset(self._places)

    def get(self, folder: Path) -> Place | None:
        """Return the place of a version that takes requests; None: it has none."""
        place = self._places.get(folder)
        return None if place is None or place.loading or place.leaving else place

    @contextmanager
    def wanted(self, folder: Path) -> Iterator[None]:
        """While a request waits for a version, nobody evicts it."""
        self._wanted[folder] += 1
        try:
            yield
        finally:
            self._wanted[folder] -= 1
            if not self._wanted[folder]:
                del self._wanted[folder]
            self._freed.set()

    @contextmanager
    def used(self, place: Place) -> Iterator[None]:
        """While a request runs with a version, it stays."""
        place.users += 1
        place.used_s = self._clock()
        try:
            yield
        finally:
            place.users -= 1
            place.used_s = self._clock()
            self._freed.set()
            if place.leaving and not place.users:
                self._leave(place)

    async def load(self, name: str, folder: Path) -> None:
        """Load a version, once there is a place for it. No effect if it has one.

        Raises:
            AdapterBrokenError, EngineDeadError: as of :meth:`workers.engines.base.Engine.load_adapter`.
        """
        async with self._turn:
            place = self._places.get(folder)
            if place is not None and place.going is None:
                place.leaving = False
                return
            if place is not None and place.going is not None:
                await asyncio.shield(place.going)
            await self._make_room()
            place = self._places[folder] = Place(name, folder)
            try:
                await self._load(name, folder)
            except BaseException:
                del self._places[folder]
                self._freed.set()
                raise
            place.loading, place.loaded_s = False, self._clock()
            if place.leaving:  # it was dropped meanwhile
                self._leave(place)

    def drop(self, folder: Path) -> None:
        """Unload a version when the last request that uses it has ended. It takes no new ones."""
        place = self._places.get(folder)
        if place is not None:
            place.leaving = True
            if not (place.users or place.loading):
                self._leave(place)

    async def clear(self) -> None:
        """Unload all of them; no request uses one. What is being loaded must have come to its end."""
        await asyncio.gather(*(self._leave(place) for place in list(self._places.values())))

    def pin(self, folders: Collection[Path]) -> None:
        """Set which versions are not evicted, of those that have a place now."""
        for place in self._places.values():
            place.pinned = place.folder in folders

    async def _make_room(self) -> None:
        waits_since = self._clock()
        while len(self._places) >= self._most:
            self._freed.clear()
            going = [place.going for place in self._places.values() if place.going is not None]
            idle = [place for place in self._places.values() if self._is_idle(place)]
            if going:
                await asyncio.shield(going[0])
            elif idle:
                await asyncio.shield(self._leave(min(idle, key=lambda place: place.used_s)))
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE_S):
                        await self._freed.wait()
                if self._clock() - waits_since >= _PATIENCE_S:
                    self._close_one()

    def _is_idle(self, place: Place) -> bool:
        if place.users or place.loading or place.going is not None:
            return False
        return place.leaving or not (place.pinned or self._wanted[place.folder])

    def _close_one(self) -> None:
        """Have the place that was taken first take no new requests, unless one leaves already."""
        if any(place.leaving for place in self._places.values()):
            return
        able = [place for place in self._places.values() if not place.pinned]
        if able:
            min(able, key=lambda place: place.loaded_s).leaving = True

    def _leave(self, place: Place) -> asyncio.Task[None]:
        if place.going is None:
            place.leaving = True
            place.going = asyncio.get_running_loop().create_task(self._go(place))
        return place.going

    async def _go(self, place: Place) -> None:
        try:
            with suppress(EngineDeadError):
                await self._unload(place.folder)
        finally:
            del self._places[place.folder]
            self._freed.set()
            self._on_evicted(place)
