"""A Celery pool without threads: jobs are coroutines on the engine's loop.

Celery's threads pool would keep one sleeping thread per job on the engine, and hand each job between three threads that
share one interpreter lock. Here the consumer's thread hands the claim to the loop, and takes outcomes back in batches, when
the pipe rings that Celery's own event loop watches. That one thread alone touches Celery's objects (ADR 0004, with figures).
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import structlog
from billiard.einfo import ExceptionInfo
from celery.concurrency.base import BasePool
from celery.exceptions import Ignore

from broker.celery.claimer import Claimer, Room
from broker.claims import Claim
from jobs.lanes import Lane
from jobs.states import JobState
from monitoring import failpoints
from workers.admission.gate import Gate
from workers.attempts.attempt import Outcome
from workers.attempts.quarantine import Quarantine
from workers.celery.bell import Bell

log = structlog.get_logger(__name__)

Result: TypeAlias = Outcome | BaseException
Submit: TypeAlias = Callable[[Claim, int, Callable[[Result], None]], None]
"""Runs a claimed job, given when the claim was sent. It calls back, on the engine's loop, with the job's outcome or with the
error that broke the runner.
"""

_APART_S = 0.003
"""Rings come no closer while there is room for jobs."""

_APART_WHEN_FULL_S = 0.001
"""The same when a job that waits can only be claimed once an outcome is settled."""

_LATER_S = 0.025
"""Bulk does not ring at once: this thread asks for bulk more often than that, and settles before it asks."""

_MOST = 16
"""Outcomes that are settled in one turn of Celery's loop. A bell that rang for a call is not heard meanwhile."""


class JobFailedError(Exception):
    """A job ended as failed; Celery and Flower show the code. It was recorded already, so nothing is retried."""


class LoopPool(BasePool):  # type: ignore[misc]
    """Runs tasks whose only argument is their id as jobs on the engine's loop; see :func:`loop_pool`."""

    submit: Submit
    claimer: Claimer
    gate: Gate
    quarantine: Quarantine
    stopping: Callable[[], None]
    body_can_be_buffer = True
    _write_end = -1
    signal_safe = False
    task_join_will_block = False

    def on_start(self) -> None:
        """Open the way back from the loop."""
        self._done: deque[tuple[Callable[..., Any], float, Claim, Result]] = deque()
        self._bell = Bell(self._ring)
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def register_with_event_loop(self, loop: Any) -> None:
        """Have Celery's loop take outcomes as they come."""
        loop.add_reader(self._read_end, self._rung)

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
        claim = self.claimer.take(args[1])
        self.gate.take(claim)
        self.quarantine.enter(claim)

        def done(result: Result) -> None:
            self._done.append((callback, started, claim, result))
            if self.gate.free() <= 0:
                self._bell.ring(_APART_WHEN_FULL_S)
            else:
                self._bell.ring(_APART_S, _LATER_S if claim.lane is Lane.BULK else 0.0)

        self.submit(claim, self.claimer.asked_ns, done)

    def _ring(self) -> None:
        if self._done:  # otherwise it was settled meanwhile
            self.wake()

    def wake(self) -> None:
        """Have Celery's loop turn now, so that it notices a change. Callable from any thread."""
        if self._write_end < 0:  # its loop does not turn: not yet, or no more
            return
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it already
            os.write(self._write_end, b"\0")

    def _rung(self) -> None:
        try:
            os.read(self._read_end, 65536)
        except BlockingIOError:
            return
        self.settle()

    def settle(self) -> None:
        """Tell Celery of what has ended. On Celery's thread, whenever it is awake."""
        for _ in range(min(_MOST, len(self._done))):
            callback, started, claim, result = self._done.popleft()
            failpoints.hit("worker.before_ack")
            self.gate.settle(claim)
            callback(_celery_result(callback, result, time.monotonic() - started))
        if self._done:
            self.wake()

    def on_stop(self) -> None:
        """Wait for running jobs, bounded by the process's end. Celery's loop no longer turns, so the pipe is read here."""
        self.stopping()
        while self.gate.jobs:
            if select.select([self._read_end], [], [], 1.0)[0]:
                self._rung()
        write_end, self._write_end = self._write_end, -1  # a signal may come at any moment, and wakes
        os.close(self._read_end)
        os.close(write_end)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {"running": self.gate.jobs, "asleep": self.gate.closed}


def room_for(gate: Gate, quarantine: Quarantine) -> Room:
    """Return what a worker may claim now. On the thread that claims."""
    free = gate.free()
    return Room(free, min(free, gate.free_bulk()), quarantine.room, gate.recheck_s(), gate.chunk_lanes())


def loop_pool(
    submit: Submit, claimer: Claimer, gate: Gate, quarantine: Quarantine, on_stop: Callable[[], None]
) -> type[LoopPool]:
    """Return the pool class of one worker, for ``app.Worker(pool=...)``.

    Args:
        claimer: has the claims of the messages that come.
        gate: counts jobs.
        quarantine: notes suspects.
        on_stop: called when nothing is claimed any more.
    """
    members = {"claimer": claimer, "gate": gate, "quarantine": quarantine}
    functions = {"submit": staticmethod(submit), "stopping": staticmethod(on_stop)}
    return type("LoopPool", (LoopPool,), members | functions)


def _celery_result(callback: Callable[..., Any], outcome: Result, runtime_s: float) -> tuple[int, Any, float]:
    """Put an outcome into Celery's terms: (failed, value or ExceptionInfo, seconds)."""
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
