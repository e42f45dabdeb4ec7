"""A Celery pool without threads: jobs are coroutines on the engine's loop.

Celery's threads pool would keep one sleeping thread per job on the engine, and hand each job between three threads that
share one interpreter lock. Here the consumer's thread hands the claim to the loop, and takes outcomes back in batches
through a pipe that Celery's own event loop watches. That one thread alone touches Celery's objects (ADR 0004, with figures).
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

from broker.attempts import Claim
from broker.celery.claimer import Claimer, Room
from jobs.states import JobState
from monitoring import failpoints
from workers.admission.gate import Gate
from workers.attempts.attempt import Outcome
from workers.attempts.quarantine import Quarantine

log = structlog.get_logger(__name__)

Result: TypeAlias = Outcome | BaseException
Submit: TypeAlias = Callable[[Claim, int, Callable[[Result], None]], None]
"""Runs a claimed job, given when the claim was sent. It calls back, on any thread, with the job's outcome or with the error
that broke the runner.
"""


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
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)

    def register_with_event_loop(self, loop: Any) -> None:
        """Have Celery's loop take outcomes as they come."""
        loop.add_reader(self._read_end, self._settle)

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
            self.wake()

        self.submit(claim, self.claimer.asked_ns, done)

    def wake(self) -> None:
        """Have Celery's loop turn now, so that it notices a change. Callable from any thread."""
        if self._write_end < 0:  # its loop does not turn: not yet, or no more
            return
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it already
            os.write(self._write_end, b"\0")

    def _settle(self) -> None:
        """Tell Celery of everything that ended since the last call."""
        try:
            os.read(self._read_end, 65536)
        except BlockingIOError:
            return
        while self._done:
            callback, started, claim, result = self._done.popleft()
            failpoints.hit("worker.before_ack")
            self.gate.settle(claim)
            callback(_celery_result(callback, result, time.monotonic() - started))

    def on_stop(self) -> None:
        """Wait for running jobs, bounded by the process's end. Celery's loop no longer turns, so the pipe is read here."""
        self.stopping()
        while self.gate.jobs:
            if select.select([self._read_end], [], [], 1.0)[0]:
                self._settle()
        write_end, self._write_end = self._write_end, -1  # a signal may come at any moment, and wakes
        os.close(self._read_end)
        os.close(write_end)

    def _get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super()._get_info()
        return info | {"running": self.gate.jobs}


def room_for(capacity: int, gate: Gate, quarantine: Quarantine) -> Room:
    """Return what a worker may claim now. On the thread that claims.

    Args:
        capacity: jobs that it runs at once.
    """
    free = capacity - gate.jobs
    return Room(free, min(free, gate.free_bulk()), quarantine.room, gate.recheck_s())


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
