"""``penstock tenants``: tenants' shares, bounds, rights and quotas, for administrators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES, USAGE, fail, note
from penstock.cli._group import Group
from penstock.cli._parse import LANES, grace, named
from penstock.cli._run import Console, client_command, limit_options
from penstock.cli._table import Column, panel, screen, table

if TYPE_CHECKING:
    from penstock.tenant_models import TenantSettings

_TENANT = argument("name", metavar="NAME", type=named("the tenant"))
_NONE = object()
"""The value of an option that sets the default."""

_QUOTAS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "storage_bytes", "batches_open")


@click.group("tenants", cls=Group)
def tenants() -> None:
    """Set tenants' shares, bounds, rights and quotas while everything runs. Needs a key with the scope admin.

    \b
    Examples:
      penstock tenants set acme --weight 3 --requests-per-minute 600 --tokens-per-day 2000000
      penstock tenants show acme
      penstock tenants list
    """  # noqa: D301  # \b is click's mark


@tenants.command("list", epilog=EXIT_CODES)
@limit_options
@client_command
def list_tenants(console: Console, *, limit: int | None) -> None:
    """List the tenants for which something is set. Every other tenant has the defaults.

    \b
    Examples:
      penstock tenants list
      penstock tenants list --all --json | jq 'select(.tokens_per_day) | .id'
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.tenants.list(limit=limit), _print_list)


@tenants.command("show", epilog=EXIT_CODES)
@_TENANT
@client_command
def show(console: Console, *, name: str) -> None:
    """Show a tenant, and what it has used of its quotas.

    \b
    Examples:
      penstock tenants show acme
      penstock tenants show acme --json | jq .used.tokens_today
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.tenants.get(name), _print_one)


def _or_none(read: Callable[[str], Any], none: str = "none") -> Callable[[str], Any]:
    """Return a reader that also takes the word for no limit."""

    def reader(text: str) -> Any:
        return _NONE if text.strip().lower() == none else read(text)

    return reader


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise click.BadParameter(f"{text!r} is not a whole number above 0, nor none")
    return int(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("it names nothing; write names with commas between them, or all")
    return names


def _lanes(text: str) -> list[str]:
    for name in _names(text):
        if name not in LANES:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(LANES)}")
    return _names(text)


@tenants.command("set", epilog=EXIT_CODES)
@_TENANT
@option("--state", type=click.Choice(["active", "suspended"]), help="suspended: it submits nothing.")
@option("--weight", type=click.FloatRange(0.001, 1000), metavar="X", help="Share of a lane.  [default: 1]")
@option("--queue-max", type=_or_none(_whole), metavar="N", help="Jobs that may wait in a pool.")
@option("--max-active", type=_or_none(_whole), metavar="N", help="Jobs on a pool's engines at once.")
@option("--models", type=_or_none(_names, "all"), metavar="NAMES", help="Models that it may use, or all.")
@option(
    "--lanes", type=_or_none(_lanes, "all"), metavar="NAMES", help="Lanes of its jobs and batches, or all."
)
@option("--requests-per-minute", type=_or_none(_whole), metavar="N", help="Jobs and calls.")
@option("--tokens-per-minute", type=_or_none(_whole), metavar="N", help="Of jobs, calls and rows.")
@option("--tokens-per-day", type=_or_none(_whole), metavar="N", help="The same in a day, UTC.")
@option("--storage-bytes", type=_or_none(_whole), metavar="N", help="Of its files.")
@option("--batches-open", type=_or_none(_whole), metavar="N", help="Batches that have not ended.")
@option("--retention", type=_or_none(grace), metavar="TIME", help="Of ended jobs: 7d; 0: until fetched.")
@client_command
def set_tenant(console: Console, *, name: str, **given: Any) -> None:
    """Change a tenant. What is not given stays; `none` removes a limit.

    \b
    Examples:
      penstock tenants set acme --weight 3 --requests-per-minute 600
      penstock tenants set night --lanes low,bulk --tokens-per-day none
      penstock tenants set acme --state suspended

    The change is effective with the next call, in every process within two seconds.
    """  # noqa: D301  # \b is click's mark
    given["retention_s"] = given.pop("retention")
    changes = {
        field: None if value is _NONE else value for field, value in given.items() if value is not None
    }
    if not changes:
        fail("nothing to change; give an option", USAGE)
    with console.client() as client:
        console.show(client.tenants.set(name, **changes), _print_one)


@tenants.command("reset", epilog=EXIT_CODES)
@_TENANT
@client_command
def reset(console: Console, *, name: str) -> None:
    """Give a tenant the defaults again: no limit of its own. Its jobs, files and batches stay.

    \b
    Examples:
      penstock tenants reset acme
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.tenants.reset(name), _print_one)


def _print_list(found: Iterable[TenantSettings]) -> None:
    made = table(
        [
            Column("tenant", lambda one: one.id),
            Column("state", lambda one: one.state),
            Column("weight", lambda one: f"{one.weight:g}", right=True),
            Column("queue", lambda one: _count(one.queue_max), right=True),
            Column("active", lambda one: _count(one.max_active), right=True),
            Column("requests/min", lambda one: _count(one.requests_per_minute), right=True),
            Column("tokens/min", lambda one: _count(one.tokens_per_minute), right=True),
            Column("tokens/day", lambda one: _count(one.tokens_per_day), right=True),
            Column("lanes", lambda one: _list(one.lanes), cut=True),
            Column("models", lambda one: _list(one.models), cut=True),
        ],
        found,
    )
    if made.row_count:
        screen().print(made)
    else:
        note("nothing is set for any tenant")


def _print_one(one: TenantSettings) -> None:
    used = one.used
    spent = (
        {}
        if used is None
        else {
            "tokens_per_day": used.tokens_today,
            "storage_bytes": used.storage_bytes,
            "batches_open": used.batches_open,
        }
    )
    quotas = (
        (field.replace("_", " "), f"{limit:,}" + (f"  (used {spent[field]:,})" if field in spent else ""))
        for field in _QUOTAS
        if (limit := getattr(one, field)) is not None
    )
    fields: list[tuple[str, str | None]] = [
        ("state", one.state),
        ("weight", f"{one.weight:g}"),
        ("waiting jobs", _count(one.queue_max)),
        ("running jobs", _count(one.max_active)),
        ("models", _list(one.models)),
        ("lanes", _list(one.lanes)),
        *quotas,
        ("retention", None if one.retention_s is None else f"{one.retention_s:g} s"),
    ]
    screen().print(panel(one.id, fields))


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _list(names: Iterable[str] | None) -> str:
    return "all" if names is None else ", ".join(names)
