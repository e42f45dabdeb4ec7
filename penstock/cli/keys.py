"""``penstock keys``: API keys, over the server's API or, with ``--direct``, straight in Redis."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES, EXIT_CODES_OF_MANY, USAGE, fail, note
from penstock.cli._group import Group
from penstock.cli._parse import duration, grace, named
from penstock.cli._run import Console, client_command, each, limit_options
from penstock.cli._table import Column, Columns, ago, screen, table

if TYPE_CHECKING:
    from penstock.key_models import ApiKey

SCOPES = ("jobs:read", "jobs:write", "batches", "files", "metrics", "admin")

_KEY = argument("key_id", metavar="KEY", type=named("the key's id"))
_KEYS = argument("key_ids", metavar="KEY...", nargs=-1, required=True, type=named("the key's id"))


class _Keys(Protocol):
    """What both ways can do: ``client.keys`` of the SDK, and :class:`penstock.server.keys.DirectKeys`."""

    def create(
        self,
        tenant: str,
        *,
        scopes: Sequence[str] | None,
        name: str | None,
        models: Sequence[str] | None,
        expires_in_s: int | None,
    ) -> ApiKey: ...

    def list(self, *, tenant: str | None, limit: int | None) -> Iterable[ApiKey]: ...

    def rotate(self, key_id: str, overlap_s: int | None) -> ApiKey: ...

    def revoke(self, key_id: str) -> ApiKey: ...


def _keys_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option ``--direct``, and pass it the keys."""

    @option("--direct", is_flag=True, help="Without the api, on a machine with its Redis and its key_pepper.")
    @client_command
    @functools.wraps(function)
    def command(console: Console, /, *, direct: bool, **kw: Any) -> Any:
        with _opened(console, direct=direct) as keys:
            return function(console, keys, **kw)

    return command


@contextmanager
def _opened(console: Console, *, direct: bool) -> Iterator[_Keys]:
    if not direct:
        with console.client() as client:
            yield client.keys
        return
    try:
        opened = import_module("penstock.server.keys").DirectKeys
    except ModuleNotFoundError as exc:
        fail(f"--direct needs the server's packages (no module {exc.name!r} here)", USAGE)
    yield opened()


@click.group("keys", cls=Group)
def keys() -> None:
    """API keys: make, list, rotate and revoke them. Needs a key with the scope admin.

    \b
    Examples:
      penstock keys create --tenant alice --name "nightly run" --expires 90d
      penstock keys create --tenant ops --scopes admin
      penstock keys list --tenant alice
      penstock keys rotate 0aB1cD2eF3gH --overlap 1h
      penstock keys revoke 0aB1cD2eF3gH
    """  # noqa: D301  # \b is click's mark


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("it names nothing; write names with commas between them")
    return names


def _scopes(text: str) -> list[str]:
    for name in _names(text):
        if name not in SCOPES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(SCOPES)}")
    return _names(text)


@keys.command("create", epilog=EXIT_CODES)
@option("--tenant", required=True, metavar="NAME", help="Whose objects it makes and sees.")
@option(
    "--scopes",
    type=_scopes,
    metavar="LIST",
    help="With commas between them.  [default: jobs:read,jobs:write,batches,files]",
)
@option("--name", metavar="TEXT", help="What it is for.")
@option("--expires", type=duration, metavar="TIME", help="When it expires: 90d.  [default: never]")
@option("--models", type=_names, metavar="LIST", help="Models that it may use.  [default: its tenant's]")
@_keys_command
def create(console: Console, keys: _Keys, *, tenant: str, expires: float | None, **given: Any) -> None:
    """Make a key and print it. It is shown this once: the server keeps a digest.

    \b
    Examples:
      penstock keys create --tenant alice
      penstock keys create --tenant ops --scopes admin --expires 90d
      export PENSTOCK_API_KEY=$(penstock keys create --tenant ci --json | jq -r .key)
      penstock keys create --direct --tenant ops --scopes admin   # the first key of a deployment
    """  # noqa: D301  # \b is click's mark
    made = keys.create(tenant, expires_in_s=None if expires is None else int(expires), **given)
    console.show(made, _shown)


@keys.command("list", epilog=EXIT_CODES)
@option("--tenant", metavar="NAME", help="Only keys of this tenant.")
@limit_options
@_keys_command
def list_keys(console: Console, keys: _Keys, *, tenant: str | None, limit: int | None) -> None:
    """List keys, newest first, without their secrets.

    \b
    Examples:
      penstock keys list --tenant alice
      penstock keys list --all --json | jq -r 'select(.state == "active") | .id'
    """  # noqa: D301  # \b is click's mark
    console.show_all(keys.list(tenant=tenant, limit=limit), _print_table)


@keys.command("rotate", epilog=EXIT_CODES)
@_KEY
@option(
    "--overlap", type=grace, metavar="TIME", help="How long the old secret stays right; or 0.  [default: 1d]"
)
@_keys_command
def rotate(console: Console, keys: _Keys, *, key_id: str, overlap: float | None) -> None:
    """Give a key a new secret and print it. The one until now stays right for a while.

    \b
    Examples:
      penstock keys rotate 0aB1cD2eF3gH
      penstock keys rotate 0aB1cD2eF3gH --overlap 0      # the old one has leaked
    """  # noqa: D301  # \b is click's mark
    console.show(keys.rotate(key_id, None if overlap is None else int(overlap)), _shown)


@keys.command("revoke", epilog=EXIT_CODES_OF_MANY)
@_KEYS
@_keys_command
def revoke(console: Console, keys: _Keys, *, key_ids: tuple[str, ...]) -> None:
    """Revoke keys, for good. Every process refuses them within two seconds.

    \b
    Examples:
      penstock keys revoke 0aB1cD2eF3gH
    """  # noqa: D301  # \b is click's mark

    def act(one: str) -> None:
        console.show(keys.revoke(one), lambda key: click.echo(f"{key.id} {key.state}"))

    each(key_ids, act)


def _shown(key: ApiKey) -> None:
    """Print a new key, alone on stdout, so that a script can take it."""
    scopes = ", ".join(key.scopes)
    click.echo(f"{key.tenant}: {scopes} (id {key.id}). Keep it: it is shown this once.", err=True)
    click.echo(key.key)


def _print_table(found: Iterable[ApiKey]) -> None:
    columns: Columns[ApiKey] = [
        Column("id", lambda key: key.id),
        Column("tenant", lambda key: key.tenant),
        Column("state", lambda key: key.state),
        Column("name", lambda key: key.name, cut=True),
        Column("scopes", lambda key: " ".join(key.scopes), cut=True),
        Column("models", lambda key: " ".join(key.models or ()), cut=True),
        Column("created", lambda key: ago(key.created_at)),
        Column("used", lambda key: ago(key.last_used_at)),
    ]
    made = table(columns, found)
    if made.row_count:
        screen().print(made)
    else:
        note("no keys")
