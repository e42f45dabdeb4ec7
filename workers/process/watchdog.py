"""The watchdog: it ends a worker whose event loop no longer turns.

Such a worker sends no heartbeat, so its jobs move on, but the process would stay and serve nobody. Two things watch:

- a thread, to which the loop must answer;
- a timer of the interpreter (``faulthandler``), in C, since code that keeps the interpreter's lock, such as a regular
  expression that backtracks for ever, lets no other thread run, and no signal handler.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Callable

import structlog

from workers.process.loop import EngineLoop

log = structlog.get_logger(__name__)

_PERIOD_S = 0.5
_LOCKED_S = 5.0


class Watchdog:
    """Watches a loop from a thread of its own.

    Args:
        stall_s: a loop that does not answer for so long has stalled. Only time in which this thread runs counts: a frozen
            process has frozen all its threads.
        on_stall: called once, on the thread, with a sentence.
    """

    def __init__(self, loop: EngineLoop, stall_s: float, on_stall: Callable[[str], None]) -> None:
        self._loop, self._stall_s, self._on_stall = loop, stall_s, on_stall
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._last_words = _open_stderr()

    def start(self) -> None:
        """Start the thread. From now on the process ends, with every thread's traceback, if no thread of it can run.

        So does one that was frozen for that long, when it wakes: its lease is over.
        """
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        os.close(self._last_words)

    def _run(self) -> None:
        answered, silent_s = threading.Event(), 0.0
        self._loop.post(answered.set)
        while not self._stopped.wait(_PERIOD_S):
            faulthandler.dump_traceback_later(self._stall_s + _LOCKED_S, exit=True, file=self._last_words)
            if answered.is_set():
                answered.clear()
                silent_s = 0.0
                self._loop.post(answered.set)
                continue
            silent_s += _PERIOD_S
            if silent_s >= self._stall_s:
                stack = self._stack()
                self._on_stall(f"its event loop has not turned for {silent_s:g} s")
                log.error(
                    "loop_stalled", silent_s=silent_s, stack=stack
                )  # last: perhaps nobody reads the log
                return

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop.thread_id or 0)  # noqa: SLF001 - documented, for debuggers
        return "" if frame is None else "".join(traceback.format_stack(frame))


def _open_stderr() -> int:
    """Open standard error once more, so that a write never waits: its pipe may be full, and nobody reads it.

    To set the flag on the descriptor itself, or on a copy, would set it for everybody who shares the pipe.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK
    try:
        return os.open("/proc/self/fd/2", flags)
    except OSError:  # a socket, say, or a system without /proc
        return os.open(os.devnull, flags)
