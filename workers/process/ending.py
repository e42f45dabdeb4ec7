"""How a worker process ends. A signal, a drain from the api, Celery's shutdown, a lost lease and a dead engine are one path.

It has four phases, and each is over at a fixed time after the deadline for running jobs, even if Redis is away:

1. stop claiming: Celery takes no more messages;
2. wait for the running jobs, up to the deadline;
3. release the others: stop them, and give them back;
4. close: end the lease, stop the engine.

The phases run on the engine's loop. A thread beside it ends the process by force when they are not over in time, for example
because Celery or the loop hangs. A job that could not be given back by then moves on when the worker's lease ends.

No step waits for the log: it may be a pipe that nobody reads, and each line of a process waits behind the one that hangs.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from monitoring.logging import last_word
from workers.process.loop import EngineLoop

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long an end may take, in seconds.

    Attributes:
        die_s: the deadline for running jobs when the worker cannot go on. By then each has been stopped, or has met the
            engine's death.
        released_s: after the deadline, until jobs are released.
        closed_s: after the deadline, until the lease has ended and the engine has stopped.
        forced_s: after the deadline, until the process is ended by force.
    """

    die_s: float = 1.0
    released_s: float = 1.0
    closed_s: float = 1.5
    forced_s: float = 1.6


BOUNDS = Bounds()


class Ending:
    """The end of this process.

    Args:
        drain_timeout_s: time for running jobs unless a drain says otherwise.
        announce: tells others that the worker ends; called on the loop.
        release: stops what still runs, so that it is given back; called on the loop.
        close: ends the lease and stops the engine; awaited on the loop, and cancelled if it takes too long.
        force: ends the process with a status, whatever its threads do.
        bounds: how long the phases may take.

    Attributes:
        begun: the worker ends; no phase is ever taken back.
        reason: why it cannot go on; None: it was told to drain, or has not begun to end.
    """

    def __init__(
        self,
        loop: EngineLoop,
        drain_timeout_s: float,
        *,
        announce: Callable[[], None],
        release: Callable[[], None],
        close: Callable[[], Coroutine[Any, Any, None]],
        force: Callable[[int], None] = os._exit,
        bounds: Bounds = BOUNDS,
    ) -> None:
        self._loop, self._drain_timeout_s = loop, drain_timeout_s
        self._announce, self._release, self._close, self._force = announce, release, close, force
        self._bounds = bounds
        self._stop_claiming: Callable[[], None] | None = None
        self.begun = False
        self.reason: str | None = None
        self._deadline = float("inf")
        self._phases: asyncio.Task[None] | None = None
        self._timeout: asyncio.Timeout | None = None
        self._grace_s = 0.0
        self._idle = asyncio.Event()
        self._closed = threading.Event()
        # A queue, since a signal handler may begin an end while it interrupts another begin: `put` is reentrant.
        self._deadlines: queue.SimpleQueue[float] = queue.SimpleQueue()
        threading.Thread(target=self._guard, name="ending-guard", daemon=True).start()

    # ---- from any thread, and from signal handlers -------------------------------------------------------------

    @property
    def status(self) -> int:
        """The exit status: 0 after a drain, 1 if the worker could not go on."""
        return 0 if self.reason is None else 1

    def drain(self, timeout_s: float | None = None) -> None:
        """Take no more jobs, give running ones ``timeout_s`` seconds, give back the rest, and end with status 0.

        Args:
            timeout_s: None: as set. Of several deadlines the earliest counts.
        """
        timeout_s = self._drain_timeout_s if timeout_s is None else timeout_s
        self._begin(timeout_s)
        log.info("draining", timeout_s=timeout_s)

    def die(self, reason: str) -> None:
        """End with status 1, since the worker cannot go on: soon, whatever its jobs do."""
        first, self.reason = self.reason is None, self.reason or reason
        self._begin(self._bounds.die_s)
        if first:
            log.error("worker_ended", reason=reason)

    def on_begin(self, stop_claiming: Callable[[], None]) -> None:
        """Set what makes Celery stop taking messages; it is called at once if the end has begun."""
        self._stop_claiming = stop_claiming
        if self.begun:
            stop_claiming()

    def stopped_claiming(self) -> None:
        """Say that Celery takes no more messages. If nobody asked for that, the worker cannot go on."""
        if not self.begun:
            self.die("Celery's worker has stopped by itself; its own log line says why")

    def _begin(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        self.begun = True
        self._deadlines.put(deadline)
        if self._stop_claiming is not None:
            self._stop_claiming()
        self._loop.post(self._set_deadline, deadline)

    # ---- from the main thread ----------------------------------------------------------------------------------

    def finish(self) -> int:
        """Say that nothing is claimed and nothing runs any more, and wait for the end. Returns the exit status."""
        self._loop.post(self._idle.set)
        if self.begun:
            self._closed.wait()
        else:  # the start failed: nothing has been claimed, and nobody waits for this process
            self._loop.call(self._close())
        self._loop.stop()
        return self.status

    # ---- on the loop -------------------------------------------------------------------------------------------

    def _set_deadline(self, deadline: float) -> None:
        if deadline >= self._deadline:
            return
        self._deadline = deadline
        if self._phases is None:
            self._phases = asyncio.get_running_loop().create_task(self._run_phases())
        elif self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(self._bound(self._grace_s))

    async def _run_phases(self) -> None:
        self._announce()
        if not await self._within(0.0, self._idle.wait()):
            self._release()
            await self._within(self._bounds.released_s, self._idle.wait())
        try:
            if not await self._within(self._bounds.closed_s, self._close()):
                log.warning("close_cut_short")
        except Exception:
            log.exception("close_failed")
        self._closed.set()

    async def _within(self, grace_s: float, phase: Awaitable[object]) -> bool:
        """Await a phase until ``grace_s`` after the deadline at most. Returns whether it came to its end."""
        self._grace_s = grace_s
        try:
            async with asyncio.timeout_at(self._bound(grace_s)) as self._timeout:
                await phase
        except TimeoutError:
            return False
        finally:
            self._timeout = None
        return True

    def _bound(self, grace_s: float) -> float:
        """Return the loop's time at ``grace_s`` after the deadline."""
        return asyncio.get_running_loop().time() + self._deadline + grace_s - time.monotonic()

    # ---- on a thread of its own --------------------------------------------------------------------------------

    def _guard(self) -> None:
        """End the process by force when the phases are not over in time."""
        force_at = self._deadlines.get() + self._bounds.forced_s
        with suppress(queue.Empty):
            while (left_s := force_at - time.monotonic()) > 0:
                force_at = min(force_at, self._deadlines.get(timeout=left_s) + self._bounds.forced_s)
        last_word(lambda: log.error("ending_forced", closed=self._closed.is_set()))
        self._force(self.status)
