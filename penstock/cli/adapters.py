"""``penstock adapters``: LoRA adapters, for administrators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES, EXIT_CODES_OF_MANY, note
from penstock.cli._group import Group
from penstock.cli._names import pools
from penstock.cli._parse import named
from penstock.cli._run import Console, client_command, each, limit_options, print_json
from penstock.cli._table import Column, ago, screen, table

if TYPE_CHECKING:
    from penstock.adapter_models import Adapter

_NAME = argument("name", metavar="NAME", type=named("the adapter"))
_POOL = option(
    "--pool",
    shell_complete=pools,
    default="default",
    show_default=True,
    metavar="NAME",
    help="The pool that loads it.",
)


@click.group("adapters", cls=Group)
def adapters() -> None:
    """LoRA adapters: add, list, pin and remove them while everything runs. Needs a key with the scope admin.

    \b
    Examples:
      penstock adapters add acme/sql ./sql-lora --pool chat
      penstock adapters add legal hf:acme/legal-lora@v2 --pool chat --tenant acme
      penstock adapters list
      penstock submit "Which tables are there?" --model acme/sql
      penstock adapters remove acme/sql --pool chat
    """  # noqa: D301  # \b is click's mark


@adapters.command("add", epilog=EXIT_CODES)
@_NAME
@argument("source", metavar="SOURCE", type=named("the source"))
@_POOL
@option("--tenant", metavar="NAME", help="The only tenant that may use it.  [default: all]")
@option("--pin", "pinned", is_flag=True, help="Workers keep it loaded.")
@option("--any-base", is_flag=True, help="Take it though it names another base model than the pool's.")
@client_command
def add(
    console: Console, *, name: str, source: str, pool: str, tenant: str | None, pinned: bool, any_base: bool
) -> None:
    """Add an adapter, or replace the files of the one of this name.

    SOURCE is a folder with adapter_config.json and adapter_model.safetensors, a tar of it, hf:org/name[@revision] on the
    hub, or the id of a file on the server. The server checks the files and keeps a copy.

    \b
    Examples:
      penstock adapters add acme/sql ./sql-lora --pool chat
      penstock adapters add legal hf:acme/legal-lora --tenant acme --pin
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        made = client.adapters.add(name, source, pool=pool, tenant=tenant, pinned=pinned, any_base=any_base)
    console.show(made, lambda one: _print([one]))


@adapters.command("list", epilog=EXIT_CODES)
@option("--pool", shell_complete=pools, metavar="NAME", help="Only those of this pool.")
@limit_options
@client_command
def list_adapters(console: Console, *, pool: str | None, limit: int | None) -> None:
    """List adapters, with their states: loaded, stored, pending, or failed on every worker, with the reason.

    \b
    Examples:
      penstock adapters list
      penstock adapters list --all --json | jq 'select(.state == "failed") | .workers'
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.adapters.list(pool=pool, limit=limit), _print)


@adapters.command("pin", epilog=EXIT_CODES)
@_NAME
@_POOL
@option("--off", is_flag=True, help="No longer.")
@client_command
def pin(console: Console, *, name: str, pool: str, off: bool) -> None:
    """Have workers keep an adapter loaded, however long nobody uses it.

    \b
    Examples:
      penstock adapters pin acme/sql --pool chat
      penstock adapters pin acme/sql --pool chat --off
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.adapters.pin(name, pool=pool, pinned=not off), lambda one: _print([one]))


@adapters.command("remove", epilog=EXIT_CODES_OF_MANY)
@argument("names", metavar="NAME...", nargs=-1, required=True, type=named("the adapter"))
@_POOL
@client_command
def remove(console: Console, *, names: tuple[str, ...], pool: str) -> None:
    """Remove adapters. Requests that run end as they began.

    \b
    Examples:
      penstock adapters remove acme/sql legal --pool chat
    """  # noqa: D301  # \b is click's mark

    def act(name: str) -> None:
        deleted = client.adapters.remove(name, pool=pool)
        if console.json:
            print_json({"id": f"{pool}/{name}", "deleted": deleted})
        else:
            click.echo(f"{name} {'removed' if deleted else 'was not removed'}")

    with console.client() as client:
        each(names, act)


def _print(found: Iterable[Adapter]) -> None:
    made = table(
        [
            Column("adapter", lambda one: one.name),
            Column("pool", lambda one: one.pool),
            Column("state", _state),
            Column("pinned", lambda one: "yes" if one.pinned else ""),
            Column("tenant", lambda one: one.tenant or "all"),
            Column("rank", lambda one: str(one.rank), right=True),
            Column("MiB", lambda one: f"{one.bytes / 1024**2:,.1f}", right=True),
            Column("added", lambda one: ago(one.created_at)),
            Column("source", lambda one: one.source, cut=True),
        ],
        found,
    )
    if made.row_count:
        screen().print(made)
    else:
        note("there are no adapters")


def _state(one: Adapter) -> str:
    """Say on how many workers it is loaded, or why none can load it."""
    if one.state == "failed":
        return f"failed: {next((report.reason for report in one.workers if report.reason), '')}"
    loaded = sum(report.state == "loaded" for report in one.workers)
    return f"loaded on {loaded}" if loaded else one.state
