"""The way of a request from its claim to the engine core: calls first, and of bulk two at a time.

vLLM renders chat templates and makes tokens in one thread, first come first served, so a call would wait behind all bulk
that came just before it. Here the thread takes the smallest priority first, and only :data:`BULK_AT_ONCE` bulk requests are
on their way.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import structlog

from workers.engines.vllm.lane_policy import BULK

log = structlog.get_logger(__name__)

BULK_AT_ONCE = 2
"""Bulk requests between their claim and the engine core."""

PLACE_S = 0.5
"""How long one may take its place. A request that fetches an image does not render meanwhile: it must not hold up others."""

_MANY_CORES = 4
_SLICE = "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE"

_priority: ContextVar[int] = ContextVar("priority", default=0)
_place: ContextVar[Place | None] = ContextVar("place", default=None)


class Place:
    """A bulk request's place on the way to the engine core, for :data:`PLACE_S` at most."""

    __slots__ = ("_free", "_taken", "_timer")

    def __init__(self, free: asyncio.Semaphore) -> None:
        self._free, self._taken = free, True
        self._timer = asyncio.get_running_loop().call_later(PLACE_S, self.leave)

    def leave(self) -> None:
        """Give it back; again: nothing happens."""
        if self._taken:
            self._taken = False
            self._timer.cancel()
            self._free.release()


class Way:
    """Bounds the bulk that is on its way to the engine core. For one event loop."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(BULK_AT_ONCE)

    @asynccontextmanager
    async def taken(self, priority: int) -> AsyncIterator[None]:
        """Run a request of this engine priority inside the block. Bulk waits for a place first, calls never do.

        The place is given back by :func:`arrived`, at the latest at the end of the block.
        """
        lane = _priority.set(priority)
        place = None
        try:
            if priority >= BULK:
                await self._free.acquire()
                place = Place(self._free)
            before = _place.set(place)
            try:
                yield
            finally:
                _place.reset(before)
        finally:
            if place is not None:
                place.leave()
            _priority.reset(lane)


def arrived() -> None:
    """Say that the current task's request is with the engine core."""
    place = _place.get()
    if place is not None:
        place.leave()


class PriorityExecutor(Executor):
    """Threads that take the work of the smallest priority first, and of equal ones the first to come.

    The priority is that of :meth:`Way.taken` where the work is submitted; 0 elsewhere.
    """

    def __init__(self, workers: int) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="render")
        self._work: list[tuple[int, int, Future[Any], Callable[[], Any]]] = []
        self._arrivals, self._lock = itertools.count(), threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn`` in a thread.

        Raises:
            RuntimeError: it was shut down.
        """
        future: Future[Any] = Future()
        with self._lock:
            self._threads.submit(self._run_first)  # first: work that is refused here must not be in the queue
            heapq.heappush(
                self._work, (_priority.get(), next(self._arrivals), future, lambda: fn(*args, **kwargs))
            )
        return future

    def _run_first(self) -> None:
        with self._lock:
            _, _, future, work = heapq.heappop(self._work)
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)
        else:
            future.set_result(result)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base class's
        """Take no more work; see the base class."""
        if cancel_futures:
            with self._lock:
                for _, _, future, _ in self._work:
                    future.cancel()
        self._threads.shutdown(wait=wait)


def by_priority(renderer: Any) -> bool:
    """Have a renderer of vLLM take its work in the order of priorities, also after vLLM has given up a stuck thread.

    Returns:
        False: this vLLM's renderer is not known; it stays first come, first served, and one warning says so.
    """
    swappable: Any = getattr(renderer, "_executor", None)
    inner = getattr(swappable, "_inner", None)
    if not (isinstance(inner, ThreadPoolExecutor) and callable(getattr(swappable, "replace_inner", None))):
        log.warning("render_order_unavailable")
        return False

    def replace_inner() -> None:
        old, swappable._inner = swappable._inner, PriorityExecutor(swappable._max_workers)  # noqa: SLF001
        old.shutdown(wait=False)

    replace_inner()
    swappable.replace_inner = replace_inner  # vLLM calls it when a template takes too long
    return True


def set_defaults(config: Any) -> None:
    """Set vLLM's own settings of its front where the user has not: small slices of output, two renderers on four cores."""
    os.environ.setdefault(_SLICE, "32")
    model = config.model_config
    cores = len(os.sched_getaffinity(0))
    if (
        cores >= _MANY_CORES
        and getattr(model, "renderer_num_workers", None) == 1
        and model.runner_type == "generate"
    ):
        model.renderer_num_workers = 2
