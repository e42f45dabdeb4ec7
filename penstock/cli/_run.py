"""How every command of the client starts and ends: options, output mode, and errors as exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from penstock.client import Penstock
    from penstock.errors import PenstockError

OK, JOB_NOT_OK, USAGE, UNREACHABLE, REFUSED, NOT_YET = 0, 1, 2, 3, 4, 5
INTERRUPTED, BROKEN_PIPE = 130, 141
"""128 plus the signal's number, as shells report a command that SIGINT or SIGPIPE ended."""

EXIT_CODES = """\b
Exit codes:
  0  done
  1  the job failed, was cancelled or expired; of a batch also: rows of it failed
  2  wrong usage
  3  the server cannot be reached
  4  the server refused
  5  still not finished when --timeout passed"""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Globals:
    """Options given before the command's name."""

    url: str | None
    api_key: str | None


@dataclass(frozen=True, slots=True)
class Console:
    """What a command needs to talk to the server and to the user.

    Attributes:
        url: the server's address; None is the SDK's default.
        api_key: None is the SDK's default.
        json: machine-readable output, one JSON object a line.
        events: that was asked for in words, so that also what happens meanwhile is to be told so.
    """

    url: str | None
    api_key: str | None
    json: bool
    events: bool = False

    def client(self, url: str | None = None) -> Penstock:
        """Open a client, of another address where one is given.

        Raises:
            click.UsageError: the address is no address.
        """
        from penstock.client import Penstock  # httpx and pydantic take longer than --help

        try:
            return Penstock(url or self.url, api_key=self.api_key)
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc


def client_command(function: F) -> F:
    """Give a command the common options, pass it a :class:`Console`, and map its errors."""

    @click.option("--url", metavar="URL", help="The server's address. [env: PENSTOCK_URL]")
    @click.option("--api-key", metavar="KEY", help="Sent as a bearer token. [env: PENSTOCK_API_KEY]")
    @click.option("--json/--text", "as_json", default=None, help="Output; JSON unless on a terminal.")
    @click.pass_context
    @functools.wraps(function)
    def command(
        ctx: click.Context,
        /,
        *args: Any,
        url: str | None,
        api_key: str | None,
        as_json: bool | None,
        **kw: Any,
    ) -> Any:
        above = ctx.find_object(Globals) or Globals(None, None)
        console = Console(
            url=url or above.url,
            api_key=api_key or above.api_key,
            json=not sys.stdout.isatty() if as_json is None else as_json,
            events=bool(as_json),
        )
        return ending(lambda: function(console, *args, **kw))

    return command  # type: ignore[return-value]  # the options are click's; callers only see a decorated command


def ending(body: Callable[[], Any]) -> Any:
    """Run a command's body; our errors become one line on stderr and an exit code."""
    from penstock.errors import PenstockError  # light, but not needed by --help

    try:
        return body()
    except PenstockError as exc:
        fail(message_of(exc), exit_code(exc))
    except BrokenPipeError:
        leave_broken_pipe()


def exit_code(error: PenstockError) -> int:
    """Return the exit code for an error: one table for all commands."""
    from penstock import errors  # see above

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
    """Return an error as one line that says what to do where that is known."""
    from penstock import errors  # see above

    text = " ".join(str(error).split())
    if isinstance(error, errors.APITimeoutError):
        return text
    if isinstance(error, errors.APIConnectionError):
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
