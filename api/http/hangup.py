"""The client's hang-up: how its connection tells of it, and how those who answer stop working."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from starlette.types import Scope

HANGUP: Final = "penstock.hangup"
"""Where a request's scope has its connection's :class:`Hangup`."""


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


class Hangup:
    """Whether the client of one connection is gone. ASGI's own way to ask costs every request a task that waits for it.

    Args:
        resume_reading: has the connection read on: one that is not read cannot be seen to close.
    """

    def __init__(self, resume_reading: Callable[[], None]) -> None:
        self._resume_reading = resume_reading
        self._watchers: set[Callable[[], None]] = set()
        self._happened = False

    def happen(self) -> None:
        """Tell those who watch, once. The connection calls it when nobody reads its answers any more."""
        if self._happened:  # a connection that is cut is lost after that, too
            return
        self._happened = True
        for tell in tuple(self._watchers):
            tell()

    def watch(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called when the client hangs up; at once, if it has."""
        self._watchers.add(tell)
        if self._happened:
            tell()
        else:
            self._resume_reading()

    def forget(self, tell: Callable[[], None]) -> None:
        """End a watch."""
        self._watchers.discard(tell)


class until_hangup:  # noqa: N801 - reads as a verb: `with until_hangup(scope):`
    """Runs the block until the client hangs up, then raises ClientGoneError out of it.

    Works like ``asyncio.timeout``: it cancels the block's task and turns the cancellation into the error.
    """

    def __init__(self, scope: Scope) -> None:
        self._hangup: Hangup = scope[HANGUP]
        self._gone = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("until_hangup must run inside a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._hangup.watch(self._leave)
        return self

    def _leave(self) -> None:
        self._gone = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hangup.forget(self._leave)
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise ClientGoneError from None
