"""``penstock models``: what is served, and further names of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from click import argument, option

from penstock.cli import _names
from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, note
from penstock.cli._group import Group
from penstock.cli._parse import named
from penstock.cli._run import Console, client_command
from penstock.cli._table import Column, screen, table

if TYPE_CHECKING:
    from penstock.rollout_models import Alias

_NAME = argument("name", metavar="NAME", type=named("the alias"))


@click.group("models", cls=Group)
def models() -> None:
    """The models that are served, and aliases of them. To change aliases needs a key with the scope admin.

    \b
    Examples:
      penstock models list
      penstock models alias gpt-4o-mini Qwen/Qwen3-8B
      penstock models unalias gpt-4o-mini
    """  # noqa: D301  # \b is click's mark


@models.command("list", epilog=EXIT_CODES)
@option("--aliases", is_flag=True, help="Only the aliases that were set with `penstock models alias`.")
@client_command
def list_models(console: Console, *, aliases: bool) -> None:
    """List the models that are served now, by all their names.

    \b
    Examples:
      penstock models list
      penstock models list --json | jq -r .id
      penstock models list --aliases
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        if aliases:
            console.show_all(client.aliases.list(), _print_aliases)
        else:
            console.show_all(client.models(), output.models_table)


@models.command("alias", epilog=EXIT_CODES)
@_NAME
@argument("model", metavar="MODEL", type=named("the model"), shell_complete=_names.models)
@client_command
def alias(console: Console, *, name: str, model: str) -> None:
    """Have NAME mean MODEL from now on, in all processes within two seconds.

    \b
    Examples:
      penstock models alias gpt-4o-mini Qwen/Qwen3-8B
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        made = client.aliases.set(name, model)
        console.show(made, f"{made.id} means {made.model}")


@models.command("unalias", epilog=EXIT_CODES)
@_NAME
@client_command
def unalias(console: Console, *, name: str) -> None:
    """Remove an alias that was set with `penstock models alias`.

    \b
    Examples:
      penstock models unalias gpt-4o-mini
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        gone = client.aliases.remove(name)
        console.show(gone, f"{gone.id} is removed")


def _print_aliases(found: Iterable[Alias]) -> None:
    made = table([Column("alias", lambda one: one.id), Column("model", lambda one: one.model)], found)
    if made.row_count:
        screen().print(made)
    else:
        note("no alias was set")
