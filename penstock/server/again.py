"""Says of a child that was started again how long it loads, and that it serves."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

Serving: TypeAlias = Callable[[str, int], Awaitable[object]]
"""Takes a child's name and process id; what it returns is done when that process does its work."""

_TELL_EVERY_S = 20.0


async def tell(name: str, process: Process, serving: Serving, report: Callable[[str], None]) -> None:
    """Report now and then that a child loads, and at last that it serves; return earlier if its process ends.

    Args:
        name: the child's.
        process: its present life.
        serving: waits for its work.
        report: takes a line for the person at the terminal.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    serves = asyncio.ensure_future(serving(name, process.pid))
    ended = asyncio.ensure_future(process.wait())
    try:
        while not (serves.done() or ended.done()):
            await asyncio.wait({serves, ended}, timeout=_TELL_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return
            if not serves.done():
                report(f"{name} is loading again ({loop.time() - began:.0f} s)")
        if serves.exception() is None:
            report(f"{name} serves again ({loop.time() - began:.0f} s)")
    finally:
        for task in (serves, ended):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # it is only told of
                await task
