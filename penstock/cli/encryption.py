"""``penstock encryption``: keys of the encryption at rest."""

from __future__ import annotations

import base64
import re
import secrets

import click

from penstock.cli._group import Group

_KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,32}\Z")


def _key_id(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    del ctx, param
    if value is None:
        return f"k{secrets.token_hex(4)}"
    if not _ID.match(value):
        raise click.BadParameter("a key's id has letters, digits, - and _, 32 at most")
    return value


@click.group("encryption", cls=Group)
def encryption() -> None:
    """Keys of the encryption of requests, results and files at rest.

    \b
    Examples:
      umask 077; penstock encryption new-key > keys
    """  # noqa: D301  # \b is click's mark


@encryption.command("new-key")
@click.option("--id", "key_id", metavar="ID", callback=_key_id, help="The key's id.  [default: a random one]")
def new_key(key_id: str) -> None:
    """Print a new key, as one line of the setting encryption_keys.

    \b
    Examples:
      umask 077; penstock encryption new-key > keys
      umask 077; (penstock encryption new-key; cat keys) > keys.new && mv keys.new keys     # rotate

    Every process needs the same keys: in a secret file penstock_encryption_keys, or in PENSTOCK_ENCRYPTION_KEYS. The first
    encrypts, all decrypt. Without its key, data cannot be read any more: keep a copy in another place.
    """  # noqa: D301  # \b is click's mark
    click.echo(f"{key_id}:{base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}")
