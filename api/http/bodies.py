"""Bodies with prompts: the memory of all that are being checked at once is bounded, and large ones are checked off the loop.

A small body is read and checked at once. A larger one takes memory of :class:`~api.http.body_memory.BodyMemory` as it
arrives, and gives it back when its job is accepted. Its checks run in one thread: one after the other, so that their memory
does not add up either. No single step of them holds the interpreter's lock for more than about 30 ms. A body of some size
that has few items, such as a picture or a long text, costs no more than a small one once its items are counted: each way to
the thread and back would cost as much as its step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from starlette.types import Receive, Scope

from api.http.body import BodyReader, announced_bytes, too_large
from api.http.body_memory import BodyMemory, Share
from api.http.shape import check_shape

P = ParamSpec("P")
T = TypeVar("T")

SMALL_BYTES = 64 * 1024
"""A body up to this size is checked on the event loop: that takes a few milliseconds at most."""


LIGHT_BYTES = 512 * 1024
"""A body up to this size is checked there, too, if it has few items: its strings take some nanoseconds a byte."""

LIGHT_ITEMS = 8192
"""As many are few, by the count of :mod:`api.http.shape`."""


class Body:
    """A request's body, and its part of the memory. Leaving the block releases both.

    Attributes:
        data: its bytes; empty once released.
        share: its part of the memory; a small one has none.
        light: as many of its bytes take no time worth a way to the thread, as they have few items.
    """

    def __init__(self, bodies: Bodies, memory: BodyMemory) -> None:
        self.data = b""
        self.share: Share | None = None
        self.light = 0
        self._bodies = bodies
        self._memory = memory

    async def run(self, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a check of the body: at once if that takes a few milliseconds at most, else in the thread."""
        size = len(self.data) - self.light
        if size <= SMALL_BYTES:  # as below; a call makes some ten of these
            return check(*args, **kwargs)
        return await self._bodies.run(size, check, *args, **kwargs)

    def put(self, data: bytes) -> None:
        """Take other bytes, with items that nobody counted: nothing of them is light."""
        if data is not self.data:
            self.data, self.light = data, 0

    def release(self) -> None:
        """Forget the bytes: the job is accepted, or refused."""
        self.data = b""
        share, self.share = self.share, None
        if share is not None:
            self._memory.give_back(share)

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
        memory_bytes: memory for those above :data:`SMALL_BYTES`, beside the eldest of them.
    """

    def __init__(self, *, max_bytes: int, max_items: int, memory_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._memory = BodyMemory(memory_bytes)
        self._thread = ThreadPoolExecutor(1, "bodies")

    async def read(self, scope: Scope, receive: Receive) -> Body:
        """Read a whole body whose items and levels are few enough to parse it. Release it soon.

        Raises:
            ApiError: 413, it is too large; 400, it has too many items or nests too deep; 503, there is no memory
                for it.
            ClientGoneError: the client hung up first.
        """
        if announced_bytes(scope) > self._max_bytes:
            raise too_large(self._max_bytes)
        body = Body(self, self._memory)
        reader = BodyReader(receive, self._max_bytes)
        try:
            await reader.read(SMALL_BYTES)
            if reader.size > SMALL_BYTES:
                body.share = await self._memory.read(reader)
            body.data, items = await self.run(reader.size, self._counted, reader)
            if reader.size <= LIGHT_BYTES and items <= LIGHT_ITEMS:
                body.light = reader.size
        except BaseException:
            body.release()
            raise
        finally:
            reader.close()
        return body

    def own(self, data: bytes) -> Body:
        """Return a small body that is ours: no client has sent these bytes."""
        body = Body(self, self._memory)
        body.data = data
        return body

    def _counted(self, reader: BodyReader) -> tuple[bytes, int]:
        data = reader.take()
        return data, check_shape(data, self._max_items)

    async def run(self, size: int, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a check of a body: of a small one at once, of a larger one in the thread. ``size``: the body's."""
        if size <= SMALL_BYTES:
            return check(*args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: check(*args, **kwargs))

    def close(self) -> None:
        """End the thread; a check that has not begun is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)
