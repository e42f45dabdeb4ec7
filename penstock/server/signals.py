"""The signals that ask a supervisor to stop."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

_HURRY_AFTER_S = 1.0  # a second signal within this time is the same Ctrl-C, sent twice


def on_signals(stop: Callable[[], None]) -> None:
    """Call ``stop`` at the first signal, and again at one that comes clearly later."""
    first = 0.0

    def signalled() -> None:
        nonlocal first
        now = time.monotonic()
        if not first or now - first > _HURRY_AFTER_S:
            first = first or now
            stop()

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(signum, signalled)
