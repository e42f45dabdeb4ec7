"""The way of a request from its claim to the engine core: calls first, and of bulk two at a time.

vLLM renders chat templates and makes tokens in one thread, first come first served, so a call would wait behind all bulk
that came just before it. Here the thread takes the smallest priority first, only :data:`BULK_AT_ONCE` bulk requests are on
their way, and bulk has no more than its turns on the event loop (:mod:`.turns`). A short call does not go to the thread at
all: it would wait four times, for the thread and for the loop, for a millisecond of work.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import structlog

from workers.engines.vllm.lane_policy import BULK
from workers.engines.vllm.turns import Turns

log = structlog.get_logger(__name__)

BULK_AT_ONCE = 2
"""Bulk requests between their claim and the engine core."""

PLACE_S = 0.5
"""How long one may take its place. A request that fetches an image does not render meanwhile: it must not hold up others."""

SHORT_BYTES = 4096
"""A call whose body is no longer renders on the event loop, in about a millisecond."""

AT_ONCE_S = 0.002
"""Unless such work takes longer than this on average: some tokenizers are slow."""

MANY_CALLS = 2
"""With so many others on their way, a thread does more on four cores: tokenizers work beside the event loop. On fewer the
engine's processes need the cores, and the way to the thread and back costs 0.1 ms."""

_NEW = 0.2
_FORGET = 0.98
_MANY_CORES = 4
_SLICE = "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE"

_priority: ContextVar[int] = ContextVar("priority", default=0)
_place: ContextVar[Place | None] = ContextVar("place", default=None)
_at_once: ContextVar[bool] = ContextVar("at_once", default=False)


class Place:
    """A request's place on the way to the engine core, for :data:`PLACE_S` at most.

    Attributes:
        turns: for the rest of a bulk request's work on the loop; None: a call's.
    """

    __slots__ = ("_give_back", "_taken", "_timer", "turns")

    def __init__(self, give_back: Callable[[], None], turns: Turns | None = None) -> None:
        self._give_back, self._taken, self.turns = give_back, True, turns
        self._timer = asyncio.get_running_loop().call_later(PLACE_S, self.leave)

    def leave(self) -> None:
        """Give it back; again: nothing happens."""
        if self._taken:
            self._taken = False
            self._timer.cancel()
            self._give_back()


class Way:
    """Bounds the bulk that is on its way to the engine core. For one event loop.

    Args:
        cores: that this process may use; None: as the system says.

    Attributes:
        turns: of bulk's work on the loop.
    """

    def __init__(self, cores: int | None = None) -> None:
        many = (cores or _cores()) >= _MANY_CORES
        self._most_at_once: float = MANY_CALLS if many else math.inf
        self._free = asyncio.Semaphore(BULK_AT_ONCE)
        self.turns = Turns()

    @asynccontextmanager
    async def taken(self, priority: int, body: bytes | None = None) -> AsyncIterator[None]:
        """Run a request of this engine priority inside the block. Bulk waits for a place and a turn first, calls never do.

        The place is given back by :func:`arrived`, at the latest at the end of the block.

        Args:
            body: the request's. That of a short call renders on the event loop, if few others come.
        """
        call, place = priority < BULK, None
        few = call and self.turns.calls < self._most_at_once
        lane, at_once = _priority.set(priority), _at_once.set(few and body is not None and is_short(body))
        try:
            if call:
                self.turns.call_comes()
                place = Place(self.turns.call_is_gone)
            else:
                await self._free.acquire()
                place = Place(self._free.release, self.turns)
                await self.turns.wait()
            before = _place.set(place)
            try:
                yield
            finally:
                _place.reset(before)
        finally:
            if place is not None:
                place.leave()
            _at_once.reset(at_once)
            _priority.reset(lane)


@contextmanager
def in_order_of(priority: int) -> Iterator[None]:
    """Have the thread take what is submitted inside the block in the order of this engine priority."""
    before = _priority.set(priority)
    try:
        yield
    finally:
        _priority.reset(before)


def is_short(body: bytes) -> bool:
    """Whether a request renders within a millisecond or two. A template of its own may take any time."""
    return len(body) <= SHORT_BYTES and b"chat_template" not in body


def arrived() -> None:
    """Say that the current task's request is with the engine core."""
    place = _place.get()
    if place is not None:
        place.leave()


def end_in_turn(collector: Any) -> None:
    """Have the last output of a bulk request, the current task's, reach its ``RequestOutputCollector`` in a turn."""
    place = _place.get()
    if place is None or place.turns is None:
        return
    put, after = collector.put, place.turns.after

    def put_in_turn(output: Any) -> None:
        if getattr(output, "finished", True):  # an exception, too: in the order of the outputs
            after(partial(put, output))
        else:
            put(output)

    collector.put = put_in_turn


class PriorityExecutor(Executor):
    """Threads that take the work of the smallest priority first, and of equal ones the first to come.

    The priority is that of :meth:`Way.taken` or :func:`in_order_of` where the work is submitted; 0 elsewhere.

    Args:
        at_once: do the work of short calls at once, in the thread that submits it.
    """

    def __init__(self, workers: int, *, at_once: bool = True) -> None:
        self._takes_at_once = at_once
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="render")
        self._work: list[tuple[int, int, Future[Any], Callable[[], Any]]] = []
        self._arrivals, self._lock = itertools.count(), threading.Lock()
        self._at_once_s = 0.0  # how long such work takes, on average

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn`` in a thread, or at once.

        Raises:
            RuntimeError: it was shut down.
        """
        future: Future[Any] = Future()
        if self._takes_at_once and _at_once.get():
            if self._at_once_s < AT_ONCE_S:
                begun = time.monotonic()
                _run(future, partial(fn, *args, **kwargs))
                self._at_once_s += _NEW * (time.monotonic() - begun - self._at_once_s)
                return future
            self._at_once_s *= _FORGET
        with self._lock:
            self._threads.submit(self._run_first)  # first: work that is refused here must not be in the queue
            heapq.heappush(
                self._work,
                (_priority.get(), next(self._arrivals), future, lambda: fn(*args, **kwargs)),
            )
        return future

    def _run_first(self) -> None:
        with self._lock:
            _, _, future, work = heapq.heappop(self._work)
        _run(future, work)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base class's
        """Take no more work; see the base class."""
        if cancel_futures:
            with self._lock:
                for _, _, future, _ in self._work:
                    future.cancel()
        self._threads.shutdown(wait=wait)


def _run(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever waits gets it
        future.set_exception(error)
    else:
        future.set_result(result)


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
    if getattr(renderer, "mm_processor", None) is not None:
        _media_by_priority(renderer)
    return True


def _media_by_priority(renderer: Any) -> None:
    """Have images, audio and video processed in the order of priorities too, after the warm-up that may still run.

    vLLM has one thread for them, and needs one: its cache of processed media and the engine core's see the same order.
    """
    renderer._mm_executor.shutdown()  # noqa: SLF001 - it waits
    one = renderer._mm_executor = PriorityExecutor(1, at_once=False)  # noqa: SLF001
    renderer._resources.callback(one.shutdown, wait=False)  # noqa: SLF001

    def in_turn(work: Callable[..., Any]) -> Callable[..., Any]:
        def submitted(*args: Any, **kwargs: Any) -> Any:
            return asyncio.get_running_loop().run_in_executor(one, partial(work, *args, **kwargs))

        return submitted

    renderer._process_multimodal_async = in_turn(renderer._process_multimodal)  # noqa: SLF001
    renderer._clear_mm_cache_async = in_turn(renderer.clear_mm_cache)  # noqa: SLF001


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def set_defaults(config: Any) -> None:
    """Set vLLM's own settings of its front where the user has not: small slices of output, two renderers on four cores."""
    os.environ.setdefault(_SLICE, "32")
    model = config.model_config
    if (
        _cores() >= _MANY_CORES
        and getattr(model, "renderer_num_workers", None) == 1
        and model.runner_type == "generate"
    ):
        model.renderer_num_workers = 2
