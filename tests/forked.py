"""Processes that begin with the product imported: a server forks them. A new Python needs half a second for that."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support import freeze

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["api.main", "coordinator.main", "workers.main"])


def _run(function: str, kwargs: dict[str, Any], log: Path, cwd: Path, env: dict[str, str]) -> None:
    os.setsid()
    threading.Thread(target=_end_with_the_tests, name="end-with-the-tests", daemon=True).start()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    module, _, name = function.partition(":")
    call: Callable[..., None] = getattr(import_module(module), name)
    call(**kwargs)


def _end_with_the_tests() -> None:
    tests = multiprocessing.parent_process()
    assert tests is not None
    tests.join()
    os.kill(os.getpid(), signal.SIGKILL)


class ForkedProcess:
    """A process of its own session that calls one function. It has the methods of :class:`subprocess.Popen` that tests use.

    Args:
        function: ``module:name``.
        kwargs: for the function; they are pickled.
        log: where its output goes.
        cwd: its working directory.
        env: its whole environment.
    """

    def __init__(
        self, function: str, kwargs: dict[str, Any], log: Path, cwd: Path, env: Mapping[str, str]
    ) -> None:
        log.touch()
        self._process = _context.Process(target=_run, args=(function, kwargs, log, cwd, dict(env)))
        self._process.start()
        atexit.register(self.kill)  # before the exit handler of multiprocessing, which would wait for it
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status as far as :meth:`poll` or :meth:`wait` has seen it; minus a signal's number."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it did not end in ``timeout`` seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, signum: signal.Signals) -> None:
        """Send it a signal, unless it has ended; after SIGSTOP it stands."""
        if self.poll() is not None:
            return
        if signum is signal.SIGSTOP:
            freeze(self.pid)
        else:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)
