"""A Celery pool without threads: jobs are coroutines on the engine's loop.

Celery's threads pool would keep one sleeping thread per job on the engine, and hand each job between three threads that
share one interpreter lock. Here the consumer's thread hands the job id to the loop, and takes outcomes back in batches
through a pipe that Celery's own event loop watches; every Celery object is touched by that one thread alone
(ADR 0004, with figures).
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import Ignore

from broker.celery.transport import BULK_ROOM, FREE_SLOTS
from jobs.states import JobState
from monitoring import failpoints
from workers.attempts.endings import Outcome
from workers.process.loop import EngineHost

log = structlog.get_logger(__name__)


class JobFailedError(Exception):
    """A job ended as failed; Celery and Flower show the code. It was recorded already, so nothing is retried."""


class _Asked:
    """A number that is asked for, as a transport option: ``inspect stats``, and so Flower, writes those as JSON."""

    def __init__(self, ask: Callable[[], float]) -> None:
        self._ask = ask

    def __call__(self) -> float:
        return self._ask()

    __json__ = __call__


class LoopPool(BasePool):  # type: ignore[misc]
    """Runs tasks whose only argument is their id as jobs on an engine host; see :func:`loop_pool`."""

    host: EngineHost
    bulk_queue: str
    body_can_be_buffer = True
    _ring = -1
    signal_safe = False
    task_join_will_block = False

    def on_start(self) -> None:
        """Open the way back from the loop."""
        self._done: deque[tuple[Callable[..., Any], float, bool, Outcome | BaseException]] = deque()
        self._inflight = 0
        self._bulk = 0
        if self.host.rooms is not None:
            self.host.rooms.pool = lambda: (self._bulk, self._inflight - self._bulk)
        options = self.app.conf.broker_transport_options
        options[FREE_SLOTS] = _Asked(self.free_slots)
        options[BULK_ROOM] = (self.bulk_queue, _Asked(self.bulk_room), _Asked(self.host.held_s))
        self._wake, self._ring = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._ring, False)

    def register_with_event_loop(self, loop: Any) -> None:
        """Have Celery's loop take outcomes as they come."""
        loop.add_reader(self._wake, self._settle)

    def free_slots(self) -> int:
        """Return how many more jobs may start."""
        return int(self.limit) - self._inflight

    def bulk_room(self) -> int:
        """Return how many more bulk messages may be taken."""
        return self.host.bulk_room()

    def on_apply(
        self,
        target: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_: Any,
    ) -> None:
        """Start the job that ``args`` (task name, id, ...) names."""
        if callback is None:
            raise TypeError("a task without a callback has no request behind it")
        started = time.monotonic()
        if accept_callback is not None:
            accept_callback(os.getpid(), started)
        bulk = args[2]["delivery_info"]["routing_key"] == self.bulk_queue
        self._inflight += 1
        self._bulk += bulk

        def done(outcome: Outcome | BaseException) -> None:
            self._done.append((callback, started, bulk, outcome))
            self.wake()

        failpoints.hit("worker.before_claim")
        self.host.submit_job(args[1], done)

    def wake(self) -> None:
        """Have Celery's loop turn now, so that it sees what has changed. Callable from any thread."""
        if self._ring < 0:  # its loop does not turn: not yet, or no more
            return
        with contextlib.suppress(BlockingIOError):  # a full pipe rings already
            os.write(self._ring, b"\0")

    def _settle(self) -> None:
        """Tell Celery of everything that ended since the last call."""
        try:
            os.read(self._wake, 65536)
        except BlockingIOError:
            return
        while self._done:
            callback, started, bulk, outcome = self._done.popleft()
            failpoints.hit("worker.before_ack")
            self._inflight -= 1
            self._bulk -= bulk
            callback(_celery_result(callback, outcome, time.monotonic() - started))

    def on_stop(self) -> None:
        """Wait for what runs; the host's drain deadline bounds it. Celery's loop no longer turns, so watch ourselves."""
        while self._inflight:
            if select.select([self._wake], [], [], 1.0)[0]:
                self._settle()
        ring, self._ring = self._ring, -1  # a signal may come at any moment from now on, and rings
        os.close(self._wake)
        os.close(ring)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {"running": self._inflight}


def loop_pool(host: EngineHost, bulk_queue: str) -> type[LoopPool]:
    """Return the pool class for one engine host, as ``app.Worker(pool=...)`` wants it."""
    return type("LoopPool", (LoopPool,), {"host": host, "bulk_queue": bulk_queue})


def _celery_result(
    callback: Callable[..., Any], outcome: Outcome | BaseException, runtime_s: float
) -> tuple[int, Any, float]:
    """Say an outcome in Celery's words: (failed, value or ExceptionInfo, seconds)."""
    if isinstance(outcome, BaseException):
        log.error("job_crashed", error=repr(outcome))
        return 1, _info(outcome), runtime_s
    if outcome.state is JobState.SUCCEEDED:
        return 0, outcome.state.value, runtime_s
    if outcome.state is JobState.FAILED:
        return 1, _info(JobFailedError(outcome.reason)), runtime_s
    ended = outcome.state or outcome.reason
    if ended in {JobState.CANCELLED, JobState.EXPIRED}:
        request: Any = getattr(callback, "__self__", None)
        if request is not None:
            request.send_event(
                "task-revoked", terminated=True, signum=None, expired=ended == JobState.EXPIRED
            )
    return 1, _info(Ignore(outcome.reason)), runtime_s


def _info(error: BaseException) -> Any:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - ExceptionInfo reads the exception being handled
        info = ExceptionInfo()
        info.exception = caught  # bare, as Celery's own tracer leaves it, so that Flower shows the code
        return info
