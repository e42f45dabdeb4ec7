"""How commands end: exit codes, and what they say on stderr, in words or with ``--json`` as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from penstock.cli._table import printable

if TYPE_CHECKING:
    from penstock.errors import PenstockError, Retry

OK, JOB_NOT_OK, USAGE, UNREACHABLE, REFUSED, NOT_YET = 0, 1, 2, 3, 4, 5
INTERRUPTED, BROKEN_PIPE = 130, 141
"""128 plus the signal's number, as shells report a command that SIGINT or SIGPIPE ended."""

_WORST_FIRST = (UNREACHABLE, REFUSED, USAGE, NOT_YET, JOB_NOT_OK, OK)

EXIT_CODES = """\b
Exit codes:
  0  done
  1  the job failed, was cancelled or expired; for a batch also: some rows failed
  2  wrong usage
  3  the server cannot be reached
  4  the server refused the request
  5  still not finished when --timeout passed"""

EXIT_CODES_OF_MANY = f"""{EXIT_CODES}
Each of several ids is done, whatever happens to the others. The code is then the worst one: 3, 4, 5, 1."""


def worse(code: int, other: int) -> int:
    """Return the worse of two exit codes."""
    return min(code, other, key=_WORST_FIRST.index)


def exit_code(error: PenstockError) -> int:
    """Return the exit code for an error: one table for all commands."""
    from penstock import errors  # light, but not needed by --help

    table: tuple[tuple[type[PenstockError], int], ...] = (
        (errors.JobEndedError, JOB_NOT_OK),
        (errors.BatchEndedError, JOB_NOT_OK),
        (errors.StreamRestartedError, JOB_NOT_OK),
        (errors.ArgumentError, USAGE),
        (errors.APIConnectionError, UNREACHABLE),
        (errors.WaitTimeoutError, NOT_YET),
        (errors.BatchWaitTimeoutError, NOT_YET),
        (errors.JobNotFinishedError, NOT_YET),
    )
    return next((code for kind, code in table if isinstance(error, kind)), REFUSED)


def message_of(error: PenstockError) -> str:
    """Return an error as one line, with what to do if that is known."""
    from penstock import errors  # as above

    text = _one_line(error)
    if isinstance(error, errors.APIConnectionError) and not error.sent:
        text = f"{text}. Is the server running? Set --url or PENSTOCK_URL."
    if isinstance(error, errors.AuthenticationError):
        text = f"{text}. The key comes from --api-key or PENSTOCK_API_KEY."
    if isinstance(error, errors.RateLimitedError):
        if (
            error.retry_after is not None and "retry in" not in text
        ):  # the server's own sentence mostly has it
            text = f"{text} (try again in {error.retry_after:g} s)"
        if error.code == "queue_full":
            text = f"{text}. See what waits: penstock queue list, penstock jobs list --state queued"
    if isinstance(error, errors.ServerError) and error.request_id:
        text = f"{text} (request {error.request_id})"
    return "; ".join([text, *getattr(error, "__notes__", ())])


def json_lines(argv: list[str] | None = None) -> bool:
    """Return whether the command line asks for JSON, so that stderr has JSON lines too.

    Read from the words themselves: a command line that click refuses has no parsed options.
    """
    words = sys.argv[1:] if argv is None else argv
    if "--" in words:
        words = words[: words.index("--")]
    chosen = [word for word in words if word in {"--json", "--text"}]
    return chosen[-1:] == ["--json"]


def note(text: str) -> None:
    """Say something beside the output."""
    _say(text, {"note": text.strip()})


def retrying(retry: Retry) -> None:
    """Say that a request is tried again."""
    error = _one_line(retry.error)
    again = f"trying again in {retry.delay_s:.1f} s ({retry.number} of {retry.max_retries})"
    _say(
        f"penstock: {error}; {again}",
        {
            "retry": {
                "what": retry.what,
                "error": error,
                "number": retry.number,
                "max_retries": retry.max_retries,
                "delay_s": round(retry.delay_s, 3),
            }
        },
    )


def report(error: PenstockError, of: str = "") -> int:
    """Say what went wrong, for one of several ids, and return the exit code."""
    code, message = exit_code(error), message_of(error)
    fields = {name: getattr(error, name, None) for name in ("code", "status", "param", "request_id")}
    _fault(message, code, of, kind=type(error).__name__, **fields)
    return code


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong, and exit."""
    _fault(message, code)
    raise SystemExit(code)


def wrong_usage(error: click.ClickException) -> NoReturn:
    """Say what is wrong with the command line, and exit."""
    if json_lines():
        _fault(error.format_message(), error.exit_code)
    else:
        error.show()
    raise SystemExit(error.exit_code)


def leave_broken_pipe() -> NoReturn:
    """End quietly when the reader of our output has gone, as other tools do on SIGPIPE."""
    # The interpreter flushes stdout once more at exit and would complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(BROKEN_PIPE)


def _fault(message: str, exit_with: int, of: str = "", *, kind: str | None = None, **fields: Any) -> None:
    named = f"{of}: " if of and of not in message else ""
    error = {"message": message, "kind": kind, **fields, "exit_code": exit_with}
    _say(f"penstock: {named}{message}", ({"id": of} if of else {}) | {"error": error})


def _one_line(error: PenstockError) -> str:
    return printable(" ".join(str(error).split()))


def _say(words: str, fields: dict[str, Any]) -> None:
    """Print one of the two on stderr."""
    click.echo(json.dumps(fields, ensure_ascii=False) if json_lines() else words, err=True)
