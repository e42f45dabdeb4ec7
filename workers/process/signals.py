"""Signals: every one that asks a process to end begins the drain."""

from __future__ import annotations

import signal
from itertools import count
from types import FrameType

import structlog

from workers.process.ending import Ending

log = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def drain_on_signals(ending: Ending) -> None:
    """Begin the drain at the first signal; give back what still runs at the second. From the main thread."""
    numbers = count(1)

    def on_signal(signum: int, _: FrameType | None) -> None:
        ending.drain(None if next(numbers) == 1 else 0.0)
        log.info("signal", signal=signal.Signals(signum).name)

    for signum in _SIGNALS:
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:  # as `nohup` has set it
            signal.signal(signum, on_signal)


def ignore_signals() -> None:
    """Ignore signals from now on. The interpreter gives each its default as it ends, which would change the exit status."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
