"""The tasks on the engine's loop: jobs, errands, and services, which run until the worker ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from workers.attempts.attempt import Outcome
from workers.process.ending import Ending

log = structlog.get_logger(__name__)


class Tasks:
    """Runs them, and cancels them at the end. All of it is called on the loop.

    Args:
        ending: begun when a service ends by itself: the worker works without none.

    Attributes:
        jobs: those that run.
        closing: services may end now.
    """

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self.jobs: set[asyncio.Task[Outcome]] = set()
        self.closing = False
        self._errands: set[asyncio.Task[None]] = set()
        self._services: list[asyncio.Task[None]] = []

    def run_job(
        self, job: Coroutine[Any, Any, Outcome], done: Callable[[Outcome | BaseException], None]
    ) -> None:
        """Run a job. ``done`` is called with its outcome, or with the error that broke the runner."""

        def settle(task: asyncio.Task[Outcome]) -> None:
            self.jobs.discard(task)
            done(Outcome(None, "abandoned") if task.cancelled() else task.exception() or task.result())

        task = asyncio.get_running_loop().create_task(job)
        self.jobs.add(task)
        task.add_done_callback(settle)

    def run_errand(self, errand: Coroutine[Any, Any, None]) -> None:
        """Run what ends by itself, until the worker ends."""
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def serve(self, services: Mapping[str, Coroutine[Any, Any, None]]) -> None:
        """Run the services, each under its name."""
        self._services = [asyncio.create_task(one, name=name) for name, one in services.items()]
        for task in self._services:
            task.add_done_callback(self._on_service_end)

    def _on_service_end(self, task: asyncio.Task[None]) -> None:
        if self.closing or self._ending.reason is not None:
            return
        error = None if task.cancelled() else task.exception()
        log.error("task_ended", task=task.get_name(), error=repr(error))
        self._ending.die(f"the {task.get_name()} ended: {error!r}")

    async def cancel(self, *others: asyncio.Task[None]) -> None:
        """Cancel all of them, and ``others``, until they have ended: a task may survive its first cancellation."""
        pending: set[asyncio.Task[Any]] = {*others, *self.jobs, *self._errands, *self._services}
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
