"""Runs a few child processes as one: start, watch, restart with back-off, stop in order, leave none behind.

One asyncio loop in the main thread; it sleeps until a child ends or a signal comes. Each child leads a
process group of its own: the terminal's Ctrl-C does not reach it, and what it started is ended with it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TypeVar

from penstock.server.again import Serving, tell
from penstock.server.child import Child, ChildSpec, how, kill_group, spawn
from penstock.server.endings import Endings
from penstock.server.guardian import Guardian
from penstock.server.logs import LogFile, LogLimits

T = TypeVar("T")

_BACKOFF_FIRST_S = 1.0
_BACKOFF_MAX_S = 30.0
_STEADY_AFTER_S = 60.0  # a child that ran this long starts over with the first back-off
_LAST_WORDS_S = 2.0  # how long the output of a process that has ended may take to be written
_START_RESTARTS = 3  # of one child while the others are not ready yet


class ChildEndedError(Exception):
    """A child ended during start-up and is not started again. The message carries its own last words."""


class StoppedError(Exception):
    """A stop was asked for during start-up."""


class Supervisor:
    """The children of this process. Use it in the main thread's loop.

    Args:
        report: takes a line for the person at the terminal.
        limits: of each child's log.
    """

    def __init__(self, report: Callable[[str], None], limits: LogLimits | None = None) -> None:
        self._report = report
        self._limits = limits or LogLimits()
        self._guardian = Guardian()
        self._children: dict[str, Child] = {}
        self._endings = Endings(report)
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._steady = False
        self._serving: Serving | None = None
        self._told: set[asyncio.Task[None]] = set()

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
        """Return a child's exit status when all that it said is in its log; None before that."""
        child = self._children[name]
        return child.process.returncode if child.recorder.done else None

    def failure(self, name: str) -> str | None:
        """Return why a child on trial is not started again; None: it runs, or is started again."""
        return self._children[name].failure

    def let_go(self, name: str) -> None:
        """Start a child no more once it has ended, however it does."""
        self._children[name].leaving = True

    def leaves(self, name: str) -> bool:
        """Return whether a child is not started again once it has ended."""
        return self._children[name].leaving

    def gone(self, name: str) -> bool:
        """Return whether a child's present life has ended."""
        return self._children[name].process.returncode is not None

    def was_ready(self, name: str) -> bool:
        """Return whether a child has done what it was started for, in this life or an earlier one."""
        return self._children[name].was_ready

    def request_stop(self) -> None:
        """Ask for an orderly stop; the second time, for a quick one."""
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def start(self, spec: ChildSpec) -> None:
        """Start a child and watch it.

        Raises:
            OSError: its program cannot be run, or its log cannot be opened.
        """
        log = LogFile(spec.log_path, self._limits)
        log.write(b"")
        child = Child(spec, log, *await spawn(spec, log, self._complain))
        self._guardian.add(child.process.pid)
        child.watcher = asyncio.create_task(self._watch(child), name=f"watch {spec.name}")
        self._children[spec.name] = child

    def replace_spec(self, name: str, spec: ChildSpec) -> None:
        """Have a child's next life follow another specification."""
        self._children[name].spec = spec

    async def end(self, name: str) -> None:
        """End a child for good, and forget it: SIGTERM, and SIGKILL when its time is up. One that has ended is forgotten."""
        child = self._children[name]
        child.leaving = True
        if child.process.returncode is None:
            await self._stop_child(child)
        elif child.watcher is not None:  # it may wait for its next life
            child.watcher.cancel()
            await asyncio.gather(child.watcher, return_exceptions=True)
        if child.process.returncode is None:  # which began just now
            kill_group(child.process.pid)
            await child.process.wait()
        self._end_group(child.process.pid)
        await asyncio.to_thread(child.recorder.join, _LAST_WORDS_S)
        child.log.close()
        self._children.pop(name, None)

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

    async def supervise(self, serving: Serving | None = None) -> None:
        """From now on restart children that end; return when a stop is asked for, or when all have finished.

        Args:
            serving: waits until a child that was started again does its work. Meanwhile its time is told, and then
                that it serves. None: nothing is told.

        Raises:
            ChildEndedError: a child ended for good just before.
        """
        if self._failed.done():
            self._failed.result()
        self._steady, self._serving = True, serving
        await self._stop.wait()

    async def stop(self) -> None:
        """Stop every child, rank by rank: SIGTERM; SIGKILL to its group when its time is up or on a hurry."""
        self._stop.set()
        for task in self._told:
            task.cancel()
        await asyncio.gather(*self._told, return_exceptions=True)
        for rank in sorted({child.spec.stop_rank for child in self._children.values()}):
            of_rank = [child for child in self._children.values() if child.spec.stop_rank == rank]
            await asyncio.gather(*(self._stop_child(child) for child in of_rank))
            await self._endings.finish()
        self._guardian.close()
        for child in self._children.values():
            await asyncio.to_thread(child.recorder.join, _LAST_WORDS_S)
            child.log.close()
        if self._failed.done():
            self._failed.exception()  # seen: no warning about it

    async def _watch(self, child: Child) -> None:
        """Follow a child through its lives."""
        while True:
            status = await child.process.wait()
            self._end_group(child.process.pid)
            if child.spec.on_end is not None:
                self._endings.begin(child.spec.name, child.spec.on_end(child.process.pid))
            if self._stop.is_set() or child.leaving:
                return
            if await self._fails_its_trial(child, status):
                return
            if await self._ends_the_start(child, status):
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

    async def _fails_its_trial(self, child: Child, status: int) -> bool:
        """Take note that a child on trial ended by itself, or was killed too often, before it was ready."""
        if not child.spec.on_trial or child.was_ready or (status < 0 and child.restarts < _START_RESTARTS):
            return False
        await asyncio.to_thread(child.recorder.join, _LAST_WORDS_S)
        child.failure = child.obituary(status)
        return True

    async def _ends_the_start(self, child: Child, status: int) -> bool:
        """Let the start fail because a child ended, unless it survives that; false: the child goes on as any other."""
        if self._survives(child, status):
            return False
        await asyncio.to_thread(child.recorder.join, _LAST_WORDS_S)
        if (
            self._steady and not self._stop.is_set()
        ):  # meanwhile the start is over, and nobody waits for its failure
            return False
        if not self._failed.done():
            self._failed.set_exception(ChildEndedError(child.obituary(status)))
        return True

    def _survives(self, child: Child, status: int) -> bool:
        """Whether the start-up goes on although a child ended, or is over."""
        if self._steady:
            return True
        if child.was_ready and child.spec.may_finish and status == 0:
            return True  # it was told to end, as in a drain
        return (child.was_ready or status < 0) and child.restarts < _START_RESTARTS

    async def _restart(self, child: Child, status: int) -> bool:
        """Start a child again after its back-off; false when it was not to be, or could not be."""
        if self._steady and time.monotonic() - child.started_at > _STEADY_AFTER_S:
            child.restarts = 0
        delay_s = min(_BACKOFF_FIRST_S * 2**child.restarts, _BACKOFF_MAX_S)
        child.restarts += 1
        again = f"starting it again in {delay_s:g} s (its log: {child.spec.log_path})"
        self._report(f"{child.spec.name} {how(status)}; {again}")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay_s)
            return False
        try:
            child.process, child.recorder, child.started_at = await spawn(
                child.spec, child.log, self._complain
            )
        except OSError as error:
            self._report(f"{child.spec.name} cannot be started: {error}")
            return False
        self._guardian.add(child.process.pid)
        if self._stop.is_set():  # asked for meanwhile: the stop has passed this child by
            kill_group(child.process.pid)
        elif self._serving is not None:
            told = asyncio.create_task(
                tell(child.spec.name, child.process, self._serving, self._report),
                name=f"tell {child.spec.name}",
            )
            self._told.add(told)
            told.add_done_callback(self._told.discard)
        return True

    async def _stop_child(self, child: Child) -> None:
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
            kill_group(child.process.pid)
        await child.watcher

    def _complain(self, sentence: str) -> None:
        with suppress(RuntimeError):  # the loop has ended: nobody reads it any more
            self._loop.call_soon_threadsafe(self._report, sentence)

    def _end_group(self, group: int) -> None:
        """End what a child left behind in its group."""
        kill_group(group)
        self._guardian.remove(group)
