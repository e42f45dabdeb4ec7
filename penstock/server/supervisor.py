"""Runs a few child processes as one: start, watch, restart with back-off, stop in order, leave none behind.

One asyncio loop in the main thread; it sleeps until a child ends or a signal comes. Each child leads a
process group of its own: the terminal's Ctrl-C does not reach it, and what it started is ended with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from penstock.server.endings import Endings
from penstock.server.guardian import Guardian, die_with_parent
from penstock.server.logs import last_words, open_log

T = TypeVar("T")
OnEnd: TypeAlias = Callable[[int], Coroutine[Any, Any, None]]
"""Takes the process id of a child that has ended."""

_BACKOFF_FIRST_S = 1.0
_BACKOFF_MAX_S = 30.0
_STEADY_AFTER_S = 60.0  # a child that ran this long starts over with the first back-off
_START_RESTARTS = 3  # of one child while the others are not ready yet


class ChildEndedError(Exception):
    """A child ended during start-up and is not started again. The message carries its own last words."""


class StoppedError(Exception):
    """A stop was asked for during start-up."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to run one child.

    Attributes:
        name: for messages.
        argv: its command.
        log_path: where its output goes.
        env: its whole environment.
        stop_rank: lower ones are stopped first, and fully, before the next.
        stop_timeout_s: from SIGTERM to SIGKILL.
        pass_fds: descriptors it inherits.
        may_finish: exit status 0 means that it was told to end, and is not started again.
        on_end: called with its process id each time it has ended, however it did.
    """

    name: str
    argv: tuple[str, ...]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    stop_rank: int = 0
    stop_timeout_s: float = 10.0
    pass_fds: tuple[int, ...] = ()
    may_finish: bool = False
    on_end: OnEnd | None = None


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: asyncio.subprocess.Process
    started_at: float
    log_offset: int
    watcher: asyncio.Task[None] | None = None
    restarts: int = 0
    was_ready: bool = False
    finished: bool = False


class Supervisor:
    """The children of this process. Use it in the main thread's loop.

    Args:
        report: takes a line for the person at the terminal.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._guardian = Guardian()
        self._children: dict[str, _Child] = {}
        self._endings = Endings(report)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._steady = False

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: child.process.pid for name, child in self._children.items()}

    def awaited(self, names: Collection[str]) -> set[int]:
        """Return the process ids of those of these children that have not finished; 0 for one that does not run now."""
        children = [self._children[name] for name in names]
        return {
            child.process.pid if child.process.returncode is None else 0
            for child in children
            if not child.finished
        }

    def exit_status(self, name: str) -> int | None:
        """Return a child's exit status; None while it runs."""
        return self._children[name].process.returncode

    def request_stop(self) -> None:
        """Ask for an orderly stop; the second time, for a quick one."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def start(self, spec: ChildSpec) -> None:
        """Start a child and watch it.

        Raises:
            OSError: its program or its log cannot be opened.
        """
        child = await self._spawn(spec)
        child.watcher = asyncio.create_task(self._watch(child), name=f"watch {spec.name}")
        self._children[spec.name] = child

    def mark_ready(self, pids: Collection[int]) -> None:
        """Take it that the children with these process ids have done what they were started for."""
        for child in self._children.values():
            child.was_ready = child.was_ready or child.process.pid in pids

    async def during_start(self, step: Awaitable[T]) -> T:
        """Wait for a step of the start-up, unless a child ends for good first or a stop is asked for.

        A child that is killed, or that was ready before, is started again three times. One that ends by itself before
        it was ready would do so again: it has said why.

        Raises:
            ChildEndedError: a child ended for good.
            StoppedError: ``request_stop`` was called.
        """
        task = asyncio.ensure_future(step)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stop, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            if stop.done():
                raise StoppedError
            return await task
        finally:
            for pending in (task, stop):
                pending.cancel()
                with suppress(asyncio.CancelledError, Exception):  # what it raised was raised above
                    await pending

    async def supervise(self) -> None:
        """From now on restart children that end; return when a stop is asked for, or when all have finished."""
        self._steady = True
        await self._stop.wait()

    async def stop(self) -> None:
        """Stop every child, rank by rank: SIGTERM; SIGKILL to its group when its time is up or on a hurry."""
        self._stop.set()
        for rank in sorted({child.spec.stop_rank for child in self._children.values()}):
            of_rank = [child for child in self._children.values() if child.spec.stop_rank == rank]
            await asyncio.gather(*(self._stop_child(child) for child in of_rank))
            await self._endings.finish()
        self._guardian.close()
        if self._failed.done():
            self._failed.exception()  # seen: no warning about it

    async def _spawn(self, spec: ChildSpec) -> _Child:
        with open_log(spec.log_path) as log:
            offset = log.tell()
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.env),
                pass_fds=spec.pass_fds,
                process_group=0,
                preexec_fn=die_with_parent(),
            )
        self._guardian.add(process.pid)
        return _Child(spec, process, time.monotonic(), offset)

    async def _watch(self, child: _Child) -> None:
        """Follow a child through its lives."""
        while True:
            status = await child.process.wait()
            self._end_group(child.process.pid)
            if child.spec.on_end is not None:
                self._endings.begin(child.spec.name, child.spec.on_end(child.process.pid))
            if self._stop.is_set():
                return
            if not (self._steady or self._survives(child, status)):
                if not self._failed.done():
                    self._failed.set_exception(ChildEndedError(_obituary(child, status)))
                return
            if status == 0 and child.spec.may_finish:
                child.finished = True
                self._report(f"{child.spec.name} has finished (status 0) and is not started again")
                if all(one.finished for one in self._children.values()):
                    self._stop.set()
                return
            while not await self._restart(child, status):
                if self._stop.is_set():
                    return

    def _survives(self, child: _Child, status: int) -> bool:
        """Whether the start-up goes on although a child ended."""
        if child.was_ready and child.spec.may_finish and status == 0:
            return True  # it was told to end, as in a drain
        return (child.was_ready or status < 0) and child.restarts < _START_RESTARTS

    async def _restart(self, child: _Child, status: int) -> bool:
        """Start a child again after its back-off; false when it was not to be, or could not be."""
        if self._steady and time.monotonic() - child.started_at > _STEADY_AFTER_S:
            child.restarts = 0
        delay_s = min(_BACKOFF_FIRST_S * 2**child.restarts, _BACKOFF_MAX_S)
        child.restarts += 1
        again = f"starting it again in {delay_s:g} s (its log: {child.spec.log_path})"
        self._report(f"{child.spec.name} {_how(status)}; {again}")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay_s)
            return False
        try:
            fresh = await self._spawn(child.spec)
        except OSError as error:
            self._report(f"{child.spec.name} cannot be started: {error}")
            return False
        child.process, child.started_at, child.log_offset = fresh.process, fresh.started_at, fresh.log_offset
        if self._stop.is_set():  # asked for meanwhile: the stop has passed this child by
            _kill_group(child.process.pid)
        return True

    async def _stop_child(self, child: _Child) -> None:
        assert child.watcher  # noqa: S101 - set by start()
        if child.process.returncode is None and not self._hurry.is_set():
            with suppress(ProcessLookupError):  # it ended just now
                child.process.terminate()
            hurry = asyncio.ensure_future(self._hurry.wait())
            await asyncio.wait(
                {child.watcher, hurry},
                timeout=child.spec.stop_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not child.watcher.done() and not hurry.done():
                self._report(f"{child.spec.name} did not stop within {child.spec.stop_timeout_s:g} s; killed")
            hurry.cancel()
        if child.process.returncode is None:
            _kill_group(child.process.pid)
        await child.watcher

    def _end_group(self, group: int) -> None:
        """End what a child left behind in its group."""
        _kill_group(group)
        self._guardian.remove(group)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):  # all gone already
        os.killpg(group, signal.SIGKILL)


def _how(status: int) -> str:
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended (status {status})"


def _obituary(child: _Child, status: int) -> str:
    words = last_words(child.spec.log_path, child.log_offset, f"penstock {child.spec.name.split('-')[0]}:")
    quoted = "".join(f"\n    {line}" for line in words)
    again = f", after {child.restarts} restarts" if child.restarts else ""
    head = f"{child.spec.name} {_how(status)} before {'the others were' if child.was_ready else 'it was'} ready{again}"
    return f"{head}{':' if words else ''}{quoted}\n  its log: {child.spec.log_path}"
