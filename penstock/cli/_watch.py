"""Following a job from the command line: its events as lines, or its text as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NoReturn

import click

from penstock.cli import _output as output
from penstock.cli._exits import INTERRUPTED, note, report
from penstock.cli._run import Console, print_json
from penstock.cli._waiting import Waiting

if TYPE_CHECKING:
    from rich.status import Status

    from penstock.client import Penstock


def watch(console: Console, client: Penstock, job_id: str, after: str | None = None) -> None:
    """Show a job's life from ``after`` to its end: NDJSON events, or live text and a summary.

    Raises:
        SystemExit: 130 on Ctrl-C.
        PenstockError: any error of the stream, or how the job ended without a result.
    """
    from penstock._core.follow import TextStream  # pydantic and all: not for --help
    from penstock._core.replies import ended_error
    from penstock.models import Restarted

    cursor = after
    text = TextStream(job_id, "mark", resumed=after is not None)
    try:
        with Waiting(console, job_id, shown=not console.json) as line:
            for event in client.jobs.events(job_id, after):
                cursor, job = event.id, event.job
                if console.json:
                    print_json({"id": event.id, "event": event.type, "data": event.data})
                    error = ended_error(job) if job else None
                    if error is not None:
                        raise error
                    continue
                piece = text.take(event)
                if piece is not None or job is not None:
                    line.stop()
                if isinstance(piece, Restarted):
                    note(f"\n[a worker was lost; attempt {piece.attempt} starts over]")
                elif piece is not None:
                    output.live(piece)
                if job is not None:
                    if job.stream:
                        click.echo()
                    else:
                        output.job_result(client.jobs.get(job_id))
                    output.print_summary(job)
    except KeyboardInterrupt:
        _interrupted(job_id, cursor)


def wait(console: Console, client: Penstock, job_id: str, timeout_s: float | None = None) -> bool:
    """Wait for a job's end and show it; return whether it succeeded.

    Raises:
        SystemExit: 130 on Ctrl-C.
        PenstockError: any error of the calls.
    """
    from penstock._core.replies import ended_error  # see above

    try:
        with Waiting(console, job_id, shown=not console.json):
            job = client.wait(job_id, timeout_s, check=False)
    except KeyboardInterrupt:
        _interrupted(job_id, None)
    if console.json:
        print_json(job)
    else:
        output.job_result(job)
        output.print_summary(job)
    error = ended_error(job)
    if error is not None:
        report(error)
        if job.partial is not None and not console.json:
            note(f"its partial output was kept: penstock jobs get {job.id}")
    return error is None


def countdown(seconds: float | None) -> Callable[[], float | None]:
    """Return a function that says how many of these seconds are left from now on; None is no limit."""
    deadline = None if seconds is None else time.monotonic() + seconds
    return lambda: None if deadline is None else max(deadline - time.monotonic(), 0.0)


def spinner(text: str) -> AbstractContextManager[Status | None]:
    """Show on stderr that something is being waited for, if that is a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console as RichConsole  # rich takes longer than --help

    return RichConsole(stderr=True).status(text)


def _interrupted(job_id: str, cursor: str | None) -> NoReturn:
    """After Ctrl-C: say that the job continues, how to resume watching and how to cancel it; exit 130."""
    again = f"penstock jobs stream {job_id}" + (f" --after {cursor}" if cursor else "")
    note(
        f"\nStopped watching; the job continues.\n  resume: {again}\n  cancel: penstock jobs cancel {job_id}"
    )
    raise SystemExit(INTERRUPTED)
