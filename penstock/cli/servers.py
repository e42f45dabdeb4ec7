"""``penstock servers``: names for the servers that a person works with."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import click
from click import argument, option

from penstock.cli import _names, _servers
from penstock.cli._exits import note
from penstock.cli._group import Group
from penstock.cli._run import json_option, print_json
from penstock.cli._servers import Server, Servers
from penstock.cli._table import Column, Columns, screen, table


def _name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    del ctx, param
    if value is not None and not _servers.NAME.match(value):
        raise click.BadParameter("a server's name has letters, digits, - _ and . only, 64 at most")
    return value


def _address(ctx: click.Context, param: click.Parameter, value: str) -> str:
    del ctx, param
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter("it is no http:// or https:// address")
    try:
        parts = urlsplit(value)
        host = parts.hostname
        _ = parts.port  # parsed when it is asked for
    except ValueError:
        raise click.BadParameter("it is no address that can be read") from None
    if "@" in parts.netloc:
        raise click.BadParameter(
            "an address has no user or password; give a key with --api-key-file or --ask-api-key"
        )
    if not host:
        raise click.BadParameter(f"{value!r} names no host")
    return value


def _absolute(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    del ctx, param
    return None if value is None else str(Path(value).expanduser().absolute())


_KNOWN = argument("name", metavar="NAME", callback=_name, shell_complete=_names.servers)
_FILE = click.Path(exists=True, dir_okay=False)


@click.group("servers", cls=Group)
def servers() -> None:
    """Names for the servers you work with: their addresses and keys, in one file that only you can read.

    \b
    Examples:
      penstock servers add edge https://edge.example --api-key-file edge.key
      penstock --server edge submit "Why is the sky blue?" --wait
      PENSTOCK_SERVER=edge penstock jobs list
      penstock servers use edge

    A command talks to the server that it is given: by --url or --server, else by PENSTOCK_URL or PENSTOCK_SERVER, else
    by `penstock servers use`, else to the `penstock up` of this folder.
    """  # noqa: D301  # \b is click's mark


@servers.command("add")
@argument("name", metavar="NAME", callback=_name)
@argument("url", metavar="URL", callback=_address)
@option(
    "--api-key-file", type=_FILE, callback=_absolute, metavar="FILE", help="Read the key from here each time."
)
@option("--api-key-env", metavar="VARIABLE", help="Take the key from this environment variable each time.")
@option(
    "--ask-api-key", is_flag=True, help="Ask for the key, or read it from stdin, and keep it in the file."
)
@option(
    "--ca-file",
    type=_FILE,
    callback=_absolute,
    metavar="FILE",
    help="PEM file with authorities to trust too.",
)
@option("--use", is_flag=True, help="Use it from now on, as penstock servers use does.")
@option("--overwrite", is_flag=True, help="Replace the server of this name.")
def add(
    *,
    name: str,
    url: str,
    api_key_file: str | None,
    api_key_env: str | None,
    ask_api_key: bool,
    ca_file: str | None,
    use: bool,
    overwrite: bool,
) -> None:
    """Add a server.

    \b
    Examples:
      penstock servers add edge https://edge.example --api-key-env EDGE_KEY --use
      penstock servers add lab https://lab.example --ask-api-key --ca-file lab-ca.pem
    """  # noqa: D301  # \b is click's mark
    if [bool(api_key_file), bool(api_key_env), ask_api_key].count(True) > 1:
        raise click.UsageError("give one of --api-key-file, --api-key-env and --ask-api-key")
    known = _servers.read()
    if name in known.by_name and not overwrite:
        raise click.UsageError(f"there is a server {name!r} already; --overwrite replaces it")
    made = Server(url, _asked() if ask_api_key else None, api_key_file, api_key_env, ca_file)
    _servers.write(Servers({**known.by_name, name: made}, name if use else known.default))
    note(
        f"{name} is {url}; commands use it with --server {name}"
        if not use
        else f"commands use {name} now: {url}"
    )


@servers.command("list")
@json_option
def list_servers(*, as_json: bool | None) -> None:
    """List the servers, without their keys.

    \b
    Examples:
      penstock servers list
      penstock servers list --json | jq -r 'select(.in_use) | .url'
    """  # noqa: D301  # \b is click's mark
    known = _servers.read()
    if not sys.stdout.isatty() if as_json is None else as_json:
        for name, one in known.by_name.items():
            facts = {"name": name, "url": one.url, "api_key_in": one.key_is_in, "ca_file": one.ca_file}
            print_json({**facts, "in_use": name == known.default})
    else:
        _print(known)


@servers.command("use")
@argument("name", metavar="[NAME]", required=False, callback=_name, shell_complete=_names.servers)
@option("--none", "unset", is_flag=True, help="None of them: the `penstock up` of the folder again.")
def use_server(*, name: str | None, unset: bool) -> None:
    """Have commands talk to a server from now on, if they name none. It comes before the `penstock up` of a folder.

    \b
    Examples:
      penstock servers use edge
      penstock servers use --none
    """  # noqa: D301  # \b is click's mark
    if (name is None) is not unset:
        raise click.UsageError("give a NAME, or --none")
    known = _servers.read()
    if name is not None:
        known.get(name)
    _servers.write(replace(known, default=name))
    note("commands use the `penstock up` of their folder" if name is None else f"commands use {name} now")


@servers.command("remove")
@_KNOWN
def remove(*, name: str) -> None:
    """Remove a server, with the key that the file keeps for it.

    \b
    Examples:
      penstock servers remove edge
    """  # noqa: D301  # \b is click's mark
    known = _servers.read()
    known.get(name)
    left = {one: server for one, server in known.by_name.items() if one != name}
    _servers.write(Servers(left, None if known.default == name else known.default))
    note(f"{name} is removed")


def _asked() -> str:
    """Ask for a key without showing it; on a pipe, read it."""
    key: str = (
        click.prompt("API key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    )
    if not key.strip():
        raise click.UsageError("the API key is empty")
    return key.strip()


def _print(known: Servers) -> None:
    columns: Columns[tuple[str, Server]] = [
        Column("name", lambda one: one[0]),
        Column("in use", lambda one: "yes" if one[0] == known.default else ""),
        Column("url", lambda one: one[1].url),
        Column("key", lambda one: one[1].key_is_in or ""),
        Column("trusts", lambda one: one[1].ca_file or "", cut=True),
    ]
    made = table(columns, known.by_name.items())
    if made.row_count:
        screen().print(made)
    else:
        note("there are no servers; penstock servers add makes one")
