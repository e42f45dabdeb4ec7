"""The file of servers: addresses and keys by name, for people who work with more than one."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

_KEYS = ("api_key", "api_key_file", "api_key_env")
_HEAD = "# Written by `penstock servers`, which does not keep comments. It may hold keys: mode 0600.\n"


@dataclass(frozen=True, slots=True)
class Server:
    """A server: its address, at most one place of its key, and what to trust.

    Attributes:
        api_key: the key itself.
        api_key_file: a file with the key.
        api_key_env: an environment variable with the key.
        ca_file: PEM file with authorities to trust besides the usual ones.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    api_key_file: str | None = None
    api_key_env: str | None = None
    ca_file: str | None = None

    def key(self) -> str | None:
        """Return the key, or None if it has none. Raises click.UsageError if it cannot be read."""
        if self.api_key_env is not None:
            if not (key := os.environ.get(self.api_key_env)):
                raise click.UsageError(f"the server's key is in {self.api_key_env}, which is not set")
            return key
        if self.api_key_file is not None:
            try:
                key = Path(self.api_key_file).expanduser().read_text().strip()
            except (OSError, UnicodeDecodeError) as exc:
                raise click.UsageError(f"the server's key cannot be read: {exc}") from exc
            if not key:  # the SDK would take that of the environment
                raise click.UsageError(f"the server's key is in {self.api_key_file}, which is empty")
            return key
        return self.api_key

    @property
    def key_is_in(self) -> str | None:
        """Where its key is, in words; None: it has none."""
        if self.api_key_env is not None:
            return f"${self.api_key_env}"
        return self.api_key_file if self.api_key_file is not None else self.api_key and "stored"


@dataclass(frozen=True, slots=True)
class Servers:
    """All servers by name, and the one that commands use if nothing else is named."""

    by_name: Mapping[str, Server]
    default: str | None = None

    def get(self, name: str) -> Server:
        """Return a server. Raises click.UsageError if there is none of this name."""
        if name not in self.by_name:
            known = f"these are: {', '.join(self.by_name)}" if self.by_name else "there are none yet"
            raise click.UsageError(f"there is no server {name!r}: {known}; see penstock servers add")
        return self.by_name[name]


def path() -> Path:
    """Return where the file is."""
    if named := os.environ.get("PENSTOCK_SERVERS_FILE"):
        return Path(named)
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "penstock" / "servers.toml"


def read() -> Servers:
    """Read the file; there need not be one.

    Raises:
        click.UsageError: it cannot be read or understood, or it holds a key and others may read it.
    """
    file = path()
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            found = tomllib.load(opened)
    except FileNotFoundError:
        return Servers({})
    except (OSError, ValueError) as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise click.UsageError(f"{file} cannot be read: {exc}") from exc
    servers = _servers(found, file)
    if mode & 0o077 and any(server.api_key for server in servers.by_name.values()):
        raise click.UsageError(f"{file} holds a key, and other users may read it: chmod 600 {file}")
    return servers


def write(servers: Servers) -> None:
    """Replace the file, which only this user can read. Raises click.UsageError if it cannot be written."""
    file = path().resolve()  # a link to it stays one
    draft = file.with_name(f"{file.name}.{os.getpid()}~")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(_text(servers))
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(file)
    except OSError as exc:
        with suppress(OSError):
            draft.unlink()
        raise click.UsageError(f"{file} cannot be written: {exc}") from exc


def _servers(found: Mapping[str, Any], file: Path) -> Servers:
    """Check what the file says."""
    tables = found.get("servers", {})
    default = found.get("default")
    known = {one.name for one in fields(Server)}
    if unknown := set(found) - {"servers", "default"}:
        raise click.UsageError(
            f"{file}: {min(unknown)}: there is no such key; write default, or [servers.NAME]"
        )
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise click.UsageError(f"{file}: write a table [servers.NAME] for each server")
    for name, table in tables.items():
        where = f"{file}: [servers.{name}]"
        if unknown := set(table) - known:
            raise click.UsageError(
                f"{where} {min(unknown)}: there is no such key; there are {', '.join(sorted(known))}"
            )
        if "url" not in table or not all(isinstance(value, str) for value in table.values()):
            raise click.UsageError(f"{where} needs a url, and its values are strings")
        if sum(key in table for key in _KEYS) > 1:
            raise click.UsageError(f"{where} has more than one of {', '.join(_KEYS)}")
    if default is not None and (not isinstance(default, str) or default not in tables):
        raise click.UsageError(f"{file}: default names {default!r}, and there is no [servers.{default}]")
    return Servers({name: Server(**table) for name, table in tables.items()}, default)


def _text(servers: Servers) -> str:
    lines = [_HEAD]
    if servers.default is not None:
        lines.append(f"default = {_string(servers.default)}\n")
    for name, server in servers.by_name.items():
        lines.append(f"\n[servers.{_string(name)}]\n")
        given = ((one.name, getattr(server, one.name)) for one in fields(Server))
        lines += [f"{key} = {_string(value)}\n" for key, value in given if value is not None]
    return "".join(lines)


def _string(text: str) -> str:
    """Write a string as TOML's basic strings are, which are JSON's but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
