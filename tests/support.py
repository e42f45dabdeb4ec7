"""Helpers for every test: waiting for a condition instead of sleeping, free ports, ids."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, overload

from jobs.ids import make_job_id

T = TypeVar("T")


_RANDOM = random.SystemRandom()
_FIRST_PORT, _PORTS = 16_384, 2048
_untried: list[int] = []


def new_id() -> str:
    """Return a fresh job id."""
    return make_job_id(int(time.time() * 1000), os.urandom(10))


def free_port() -> int:
    """Return a loopback port that nobody uses at this moment, and that nobody gets who asks for any port.

    The system gives those from 32768 on (Linux): a worker's metrics, or a connection, could take it before its server does.
    Each process of the tests has a range of its own, so that another's server cannot take it either; and Hypothesis, which
    seeds ``random``, does not have two tests ask for the same. No port is named twice before all others were: its server may
    not have begun yet.
    """
    first = _FIRST_PORT + _PORTS * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 8)
    while True:
        if not _untried:
            _untried.extend(_RANDOM.sample(range(first, first + _PORTS), _PORTS))
        port = _untried.pop()
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


@overload
async def eventually(condition: Callable[[], Coroutine[Any, Any, T | None]], timeout_s: float = ...) -> T: ...


@overload
async def eventually(condition: Callable[[], T | None], timeout_s: float = ...) -> T: ...


async def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Return the condition's value once it is true.

    Raises:
        AssertionError: it did not come true in ``timeout_s`` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {_said(condition)}"
        await asyncio.sleep(0.02)


def wait_until(condition: Callable[[], T | None], timeout_s: float = 20.0) -> T:
    """As :func:`eventually`, for synchronous tests."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {_said(condition)}"
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """Stop a process with SIGSTOP, and return when it stands: each of its threads stops at a moment of its own."""
    os.kill(pid, signal.SIGSTOP)
    if Path("/proc/self/task").exists():  # Linux
        wait_until(lambda: frozen(pid))


def frozen(pid: int) -> bool:
    """Whether each thread of a process stands (Linux)."""
    return all(_state(thread) in "TZX" for thread in Path(f"/proc/{pid}/task").iterdir())


def _state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return "X"


def _said(condition: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except TypeError:  # a partial, or a bound method of C code
        return repr(condition)
