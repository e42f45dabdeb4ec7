"""How commands end: exit codes, and the words on stderr."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from penstock.errors import PenstockError

OK, JOB_NOT_OK, USAGE, UNREACHABLE, REFUSED, NOT_YET = 0, 1, 2, 3, 4, 5
INTERRUPTED, BROKEN_PIPE = 130, 141
"""128 plus the signal's number, as shells report a command that SIGINT or SIGPIPE ended."""

EXIT_CODES = """\b
Exit codes:
  0  done
  1  the job failed, was cancelled or expired; for a batch also: some rows failed
  2  wrong usage
  3  the server cannot be reached
  4  the server refused the request
  5  still not finished when --timeout passed"""


def exit_code(error: PenstockError) -> int:
    """Return the exit code for an error: one table for all commands."""
    from penstock import errors  # light, but not needed by --help

    table: tuple[tuple[type[PenstockError], int], ...] = (
        (errors.JobEndedError, JOB_NOT_OK),
        (errors.BatchEndedError, JOB_NOT_OK),
        (errors.StreamRestartedError, JOB_NOT_OK),
        (errors.APIConnectionError, UNREACHABLE),
        (errors.WaitTimeoutError, NOT_YET),
        (errors.BatchWaitTimeoutError, NOT_YET),
        (errors.JobNotFinishedError, NOT_YET),
    )
    return next((code for kind, code in table if isinstance(error, kind)), REFUSED)


def message_of(error: PenstockError) -> str:
    """Return an error as one line, with what to do if that is known."""
    from penstock import errors  # as above

    text = " ".join(str(error).split())
    if isinstance(error, errors.APIConnectionError) and not isinstance(error, errors.APITimeoutError):
        return f"{text}. Is the server running? Set --url or PENSTOCK_URL."
    if isinstance(error, errors.RateLimitedError) and error.retry_after is not None:
        return f"{text} (try again in {error.retry_after:g} s)"
    return text


def note(text: str) -> None:
    """Say something beside the output, on stderr."""
    click.echo(text, err=True)


def fail(message: str, code: int) -> NoReturn:
    """Print one line on stderr and exit."""
    click.echo(f"penstock: {message}", err=True)
    raise SystemExit(code)


def leave_broken_pipe() -> NoReturn:
    """End quietly when the reader of our output has gone, as other tools do on SIGPIPE."""
    # The interpreter flushes stdout once more at exit and would complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(BROKEN_PIPE)
