"""The line on a terminal that says where a job stands, until something comes of it."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Self

from penstock.cli._output import standing
from penstock.cli._run import Console

if TYPE_CHECKING:
    from rich.status import Status

    from penstock.client import Penstock
    from penstock.models import Job

_QUIET_S = 0.5
"""A job that brings something sooner is shown without the line."""

_EVERY_S = 1.0


class Waiting:
    """One line on stderr, while the block runs and nothing has come. It is there on a terminal only.

    A thread of its own asks the server. If that does not say where the job stands, the line only says that it waits.

    Args:
        console: how the server is reached.
        job_id: the job, which the line names; None: :meth:`follow` says it later, and the line does not name it.
        shown: false shows nothing.

    Attributes:
        shown: whether it shows anything.
    """

    def __init__(self, console: Console, job_id: str | None = None, *, shown: bool) -> None:
        self._console, self._job_id = console, job_id
        self._label = "" if job_id is None else f"{job_id}: "
        self.shown = shown and sys.stderr.isatty()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._status: Status | None = None

    def follow(self, job_id: str) -> None:
        """Say where this job stands."""
        self._job_id = job_id

    def stop(self) -> None:
        """Remove the line: something came."""
        if self._over.is_set():
            return
        with self._lock:
            self._over.set()
            if self._status is not None:
                self._status.stop()

    def __enter__(self) -> Self:
        if self.shown:
            threading.Thread(target=self._run, name="waiting", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        from penstock.errors import PenstockError  # not needed by --help

        if self._over.wait(_QUIET_S):
            return
        self._say("waiting")
        try:
            with self._console.client(on_retry=None, max_retries=0) as client:
                while True:
                    if self._job_id is not None:
                        job = client.jobs.get(self._job_id)
                        words = (standing(job) or job.state, _held_up(client, job))
                        self._say("; ".join(filter(None, words)))
                    if self._over.wait(_EVERY_S):
                        return
        except PenstockError:
            self._say(
                "waiting"
            )  # the key may not read jobs, or the server is away, which the command itself says

    def _say(self, words: str) -> None:
        from rich.console import Console as RichConsole  # as above

        text = self._label + words
        with self._lock:
            if self._over.is_set():
                return
            if self._status is None:
                self._status = RichConsole(stderr=True).status(text)
                self._status.start()
            else:
                self._status.update(text)


def _held_up(client: Penstock, job: Job) -> str | None:
    """Return why a queued job without an estimate does not move; None: nothing is known to hold it up."""
    if job.state != "queued" or job.eta_s is not None:
        return None
    pool = next((one for one in client.pools.list() if one.pool == job.pool), None)
    if pool is None or (pool.slots and not pool.paused):
        return None
    return f"the pool {pool.pool} is paused" if pool.paused else f"the pool {pool.pool} has no worker"
