"""The thread with the engine's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


class EngineLoop:
    """An event loop in a thread of its own. Other threads hand it work; everything else lives on it."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True)

    @property
    def thread_id(self) -> int | None:
        """The thread's identifier; None before the start."""
        return self._thread.ident

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the loop, and wait up to a second for the thread."""
        self.post(self._loop.stop)
        self._thread.join(1.0)

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called on the loop. From any thread, and from signal handlers."""
        self._loop.call_soon_threadsafe(function, *args)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and return its result. Never from the loop's own thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
