"""Following a job from the command line: its events as lines, or its text as it comes."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NoReturn

import click

from penstock.cli import _output as output
from penstock.cli._run import INTERRUPTED, Console, exit_code, fail, message_of, note

if TYPE_CHECKING:
    from penstock.client import Penstock
    from penstock.models import Job


def watch(console: Console, client: Penstock, job_id: str, after: str | None = None) -> None:
    """Show a job's life from ``after`` to its end: NDJSON events, or live text and a summary.

    Raises:
        SystemExit: 1 where it ended without a result, 130 on Ctrl-C.
        PenstockError: any error of the stream.
    """
    cursor = after
    try:
        if console.json:
            for event in client.jobs.events(job_id, after):
                cursor = event.id
                output.as_json({"id": event.id, "event": event.type, "data": event.data})
                if event.job is not None:
                    end(event.job)
            return
        from penstock._core.follow import TextStream  # pydantic and all: not for --help
        from penstock.models import Restarted

        text = TextStream(job_id, "mark", resumed=after is not None)
        for event in client.jobs.events(job_id, after):
            cursor = event.id
            piece = text.take(event)
            if isinstance(piece, Restarted):
                note(f"\n[a worker was lost; attempt {piece.attempt} begins anew]")
            elif piece is not None:
                output.live(piece)
            job = event.job
            if job is not None:
                if not job.stream:
                    output.job_result(client.jobs.get(job_id))
                else:
                    click.echo()
                output.print_summary(job)
    except KeyboardInterrupt:
        interrupted(job_id, cursor)


def wait(console: Console, client: Penstock, job_id: str, timeout_s: float | None = None) -> bool:
    """Wait for a job's end and show it; return whether it succeeded.

    Raises:
        SystemExit: 130 on Ctrl-C.
        PenstockError: any error of the calls.
    """
    from penstock._core.protocol import ended_error  # see above

    try:
        if console.json:
            job = client.wait(job_id, timeout_s, check=False)
            output.as_json(job)
        else:
            with _spinner(job_id):
                job = client.wait(job_id, timeout_s, check=False)
            output.job_result(job)
            output.print_summary(job)
    except KeyboardInterrupt:
        interrupted(job_id, None)
    error = ended_error(job)
    if error is not None:
        note(f"penstock: {message_of(error)}")
        if job.partial is not None and not console.json:
            note(f"what it had produced was kept: penstock get {job.id}")
    return error is None


def end(job: Job) -> None:
    """Leave with exit code 1 and one line where the job ended without a result."""
    from penstock._core.protocol import ended_error  # see above

    error = ended_error(job)
    if error is not None:
        fail(message_of(error), exit_code(error))


def interrupted(job_id: str, cursor: str | None) -> NoReturn:
    """After Ctrl-C: say that the job goes on, how to come back and how to end it; exit 130."""
    again = f"penstock stream {job_id}" + (f" --after {cursor}" if cursor else "")
    note(f"\nStopped watching; the job goes on.\n  resume: {again}\n  cancel: penstock cancel {job_id}")
    raise SystemExit(INTERRUPTED)


def _spinner(job_id: str) -> AbstractContextManager[object]:
    """Show on stderr, where that is a terminal, that something is being waited for."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console as RichConsole  # see above

    return RichConsole(stderr=True).status(f"waiting for {job_id}")
