"""Which server a command talks to, and as whom: what was named by option, by environment, by name, or runs here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import click

from penstock.cli import _servers
from penstock.cli._local import key_here, running_here


@dataclass(frozen=True, slots=True)
class Target:
    """A server to talk to.

    Attributes:
        url: None is the SDK's default.
        api_key: None is ``PENSTOCK_API_KEY``, or none. Empty is none.
        ca_file: None is ``PENSTOCK_CA_FILE``, or none.
        named: the user named it, so that no other may take its place.
    """

    url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    named: bool = False


def target(url: str | None, server: str | None, api_key: str | None, *, at: str | None = None) -> Target:
    """Find the server: that of the options, of the environment, of ``penstock servers use``, of this folder.

    The key of a server in the file goes to no other one. ``PENSTOCK_API_KEY`` comes before it, unless the option
    ``--server`` chose the server: that one gets the key of the file, or none.

    Args:
        url: of the option ``--url``.
        server: of the option ``--server``.
        api_key: of the option ``--api-key``.
        at: an address that was decided elsewhere; it gets the named server's key only if it is that server's.

    Raises:
        click.UsageError: two servers are named at once, or the one that is named is not known.
    """
    if url and server:
        raise click.UsageError("--url and --server each name a server; give one of them")
    if url is None and server is None:
        url, by_name = _variable("PENSTOCK_URL"), _variable("PENSTOCK_SERVER")
        if url and by_name:
            raise click.UsageError("PENSTOCK_URL and PENSTOCK_SERVER each name a server; unset one of them")
        name = by_name or (_servers.read().default if url is None else None)
    else:
        name = server
    key_of_environment = _variable("PENSTOCK_API_KEY")
    if name is not None:
        chosen = _servers.read().get(name)
        if at is not None and at != chosen.url:
            return target(at, None, api_key)
        if api_key is None and server is not None:
            api_key = chosen.key() or ""
        elif api_key is None and key_of_environment is None:
            api_key = chosen.key()
        ca_file = chosen.ca_file and str(Path(chosen.ca_file).expanduser())
        return Target(chosen.url, api_key, ca_file, named=True)
    here = running_here()
    address = at or url or here
    if address is not None and address == here and api_key is None and key_of_environment is None:
        api_key = key_here()  # it goes to no other server
    return Target(address, api_key, named=url is not None)


def _variable(name: str) -> str | None:
    return os.environ.get(name) or None
