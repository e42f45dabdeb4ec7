"""One child of a supervisor: how to run it, and what is said of its end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from penstock.server.guardian import die_with_parent
from penstock.server.logs import LogFile, Recorder

OnEnd: TypeAlias = Callable[[int], Coroutine[Any, Any, None]]
"""Takes the process id of a child that has ended."""


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
        on_trial: one that ends by itself before it was ready is not started again, however long the others run.
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
    on_trial: bool = False
    on_end: OnEnd | None = None


@dataclass(slots=True)
class Child:
    """A child, through all of its lives.

    Attributes:
        process: its present life, or its last.
        recorder: of that life's output.
        started_at: of that life, by the monotonic clock.
        was_ready: it has done what it was started for, in this life or an earlier one.
        finished: it ended as it was told to.
        failure: why one on trial is not started again; None: it is.
        leaving: it is being ended for good.
    """

    spec: ChildSpec
    log: LogFile
    process: asyncio.subprocess.Process
    recorder: Recorder
    started_at: float
    watcher: asyncio.Task[None] | None = None
    restarts: int = 0
    was_ready: bool = False
    finished: bool = False
    failure: str | None = None
    leaving: bool = False

    def obituary(self, status: int) -> str:
        """Say how it ended before everything was ready, in its own words."""
        words = self.recorder.last_words(f"penstock {self.spec.name.split('-')[0]}:")
        quoted = "".join(f"\n    {line}" for line in words)
        again = f", after {self.restarts} restarts" if self.restarts else ""
        who = "the others were" if self.was_ready else "it was"
        head = f"{self.spec.name} {how(status)} before {who} ready{again}"
        return f"{head}{':' if words else ''}{quoted}\n  its log: {self.spec.log_path}"


async def spawn(
    spec: ChildSpec, log: LogFile, complain: Callable[[str], None]
) -> tuple[asyncio.subprocess.Process, Recorder, float]:
    """Start a process, as the leader of a process group of its own.

    Args:
        log: takes its output.
        complain: takes a sentence if the log cannot be written; called in another thread.

    Returns:
        The process, what records its output, and when it was started.

    Raises:
        OSError: its program cannot be run.
    """
    recorder = Recorder(log, complain)
    try:
        process = await asyncio.create_subprocess_exec(
            *spec.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=recorder.write_fd,
            stderr=recorder.write_fd,
            env=dict(spec.env),
            pass_fds=spec.pass_fds,
            process_group=0,
            preexec_fn=die_with_parent(),
        )
    finally:
        recorder.start()
    return process, recorder, time.monotonic()


def kill_group(group: int) -> None:
    """End a process group, whatever is left of it."""
    with suppress(ProcessLookupError):  # all gone already
        os.killpg(group, signal.SIGKILL)


def how(status: int) -> str:
    """Say how a process ended."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended (status {status})"
