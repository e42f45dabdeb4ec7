"""Bodies with prompts: the memory of all that are being checked at once is bounded, and large ones are checked off the loop.

A small body is read and checked at once. A larger one first reserves its size of a common budget, in turn; it gives the
memory back when its job is accepted. Its checks run in one thread: one after the other, so that their memory does not add
up either. No single step of them holds the interpreter's lock for more than about 30 ms.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from starlette.types import Receive, Scope

from api.http.body import BodyReader, announced_bytes, too_large
from api.http.errors import ApiError
from api.http.shape import check_shape

P = ParamSpec("P")
T = TypeVar("T")

SMALL_BYTES = 64 * 1024
"""A body up to this size is checked on the event loop: that takes a few milliseconds at most."""

_UNIT = 64 * 1024


class _Budget:
    """Bytes that may be taken at once, in whole units. Those who ask first are served first."""

    def __init__(self, limit: int) -> None:
        self._units = asyncio.Semaphore(-(-limit // _UNIT))
        self._turn = asyncio.Lock()  # one taker at a time: two halves of two takers would wait for each other

    async def take(self, size: int) -> int:
        """Wait until there is room. Returns what :meth:`give_back` wants."""
        taken = 0
        try:
            async with self._turn:
                for _ in range(-(-size // _UNIT)):
                    await self._units.acquire()
                    taken += 1
        except BaseException:
            self.give_back(taken)
            raise
        return taken

    def give_back(self, units: int) -> None:
        for _ in range(units):
            self._units.release()


class Body:
    """A request's body, and its part of the budget. Leaving the block releases both.

    Attributes:
        data: its bytes; empty once released.
    """

    def __init__(self, budget: _Budget) -> None:
        self.data = b""
        self._budget = budget
        self._units = 0

    async def reserve(self, size: int) -> None:
        """Take its part of the budget."""
        self._units = await self._budget.take(size)

    def release(self) -> None:
        """Forget the bytes: the job is accepted, or refused."""
        self.data = b""
        units, self._units = self._units, 0
        self._budget.give_back(units)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Bodies:
    """The bodies that one api process reads and checks.

    Args:
        max_bytes: largest body.
        max_items: most elements and members in one.
        memory_bytes: the budget for those above :data:`SMALL_BYTES`; at least ``max_bytes``.
        timeout_s: how long one of these may take to arrive.
    """

    def __init__(self, *, max_bytes: int, max_items: int, memory_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._timeout_s = timeout_s
        self._budget = _Budget(max(memory_bytes, max_bytes))
        self._thread = ThreadPoolExecutor(1, "bodies")

    async def read(self, scope: Scope, receive: Receive) -> Body:
        """Read a whole body whose items and levels are few enough to parse it. Release it soon.

        Raises:
            ApiError: 413, it is too large; 400, it has too many items or nests too deep; 408, it came too slowly.
            ClientGoneError: the client hung up first.
        """
        announced = announced_bytes(scope)
        if announced > self._max_bytes:
            raise too_large(self._max_bytes)
        body = Body(self._budget)
        reader = BodyReader(receive, self._max_bytes)
        try:
            if announced <= SMALL_BYTES:
                await reader.read(SMALL_BYTES)
            if not reader.complete:
                await self._read_large(body, reader, announced or self._max_bytes)
            body.data = await self.run(reader.size, reader.take)
            await self.run(reader.size, check_shape, body.data, self._max_items)
        except BaseException:
            body.release()
            raise
        return body

    async def _read_large(self, body: Body, reader: BodyReader, size: int) -> None:
        await body.reserve(size)
        try:
            async with asyncio.timeout(self._timeout_s):
                await reader.read(self._max_bytes)
        except TimeoutError:
            message = (
                f"the body did not arrive within {self._timeout_s:g} s (setting body_timeout_s);"
                " send a smaller one, or over a faster connection"
            )
            raise ApiError(408, message, "body_timeout", headers={"connection": "close"}) from None

    async def run(self, size: int, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a check of a body: of a small one at once, of a larger one in the thread. ``size``: the body's."""
        if size <= SMALL_BYTES:
            return check(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: check(*args, **kwargs))

    def close(self) -> None:
        """End the thread; a check that has not begun is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
