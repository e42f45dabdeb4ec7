"""``penstock webhooks``: endpoints that are told when jobs, batches and responses end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES, EXIT_CODES_OF_MANY, note
from penstock.cli._group import Group
from penstock.cli._parse import grace, named
from penstock.cli._run import Console, client_command, each, limit_options
from penstock.cli._table import Column, Columns, ago, screen, table

if TYPE_CHECKING:
    from penstock.webhook_models import DeadLetter, Delivery, Sent, Webhook, WebhookSecret

_WEBHOOK = argument("webhook_id", metavar="WEBHOOK", type=named("the webhook's id"))
_WEBHOOKS = argument(
    "webhook_ids", metavar="WEBHOOK...", nargs=-1, required=True, type=named("the webhook's id")
)
_OVERLAP = option(
    "--overlap", type=grace, metavar="TIME", help="How long the old secret signs, too; or 0.  [default: 1d]"
)


@click.group("webhooks", cls=Group)
def webhooks() -> None:
    """Webhooks: have a server of yours told when jobs, batches and responses end.

    \b
    Examples:
      penstock webhooks create https://example.com/hooks --events job.failed,batch.*
      penstock webhooks test wh_019a...
      penstock webhooks deliveries wh_019a...
      penstock webhooks resend wh_019a... evt_0bee...
    """  # noqa: D301  # \b is click's mark


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("it names nothing; write types with commas between them, or *")
    return names


@webhooks.command("create", epilog=EXIT_CODES)
@argument("address", metavar="URL")
@option("--events", type=_names, metavar="LIST", help="Types or groups, with commas.  [default: all]")
@option("--description", metavar="TEXT", help="What it is for.")
@client_command
def create(console: Console, *, address: str, **given: Any) -> None:
    """Make a webhook and print its secret. It is shown this once.

    \b
    Examples:
      penstock webhooks create https://example.com/hooks
      penstock webhooks create https://example.com/hooks --events 'job.failed,batch.*'
      penstock webhooks create https://example.com/hooks --json | jq -r .secret
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.webhooks.create(address, **given), _print_secret)


@webhooks.command("list", epilog=EXIT_CODES)
@option("--tenant", metavar="NAME", help="Only those of this tenant, with the scope admin.")
@limit_options
@client_command
def list_webhooks(console: Console, *, tenant: str | None, limit: int | None) -> None:
    """List webhooks, newest first.

    \b
    Examples:
      penstock webhooks list
      penstock webhooks list --all --json | jq -r 'select(.state == "disabled") | .id'
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.webhooks.list(tenant=tenant, limit=limit), _print_list)


@webhooks.command("show", epilog=EXIT_CODES)
@_WEBHOOK
@client_command
def show(console: Console, *, webhook_id: str) -> None:
    """Show a webhook, and how much it has not got yet.

    \b
    Examples:
      penstock webhooks show wh_019a...
      penstock webhooks show whe_job_019a...     # of one job that was submitted with --webhook
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.webhooks.get(webhook_id), lambda one: _print_list([one]))


@webhooks.command("update", epilog=EXIT_CODES)
@_WEBHOOK
@option("--to", "address", metavar="URL", help="Where its events go from now on.")
@option("--events", type=_names, metavar="LIST", help="Types or groups, with commas.")
@option("--description", metavar="TEXT", help="What it is for.")
@option("--state", type=click.Choice(["active", "disabled"]), help="active: it gets what it missed.")
@client_command
def update(console: Console, *, webhook_id: str, address: str | None, **given: Any) -> None:
    """Change a webhook. What is not given stays.

    \b
    Examples:
      penstock webhooks update wh_019a... --state active
      penstock webhooks update wh_019a... --events 'batch.*'
    """  # noqa: D301  # \b is click's mark
    given["url"] = address
    if all(value is None for value in given.values()):
        raise click.UsageError("give --to, --events, --description or --state")
    with console.client() as client:
        console.show(client.webhooks.update(webhook_id, **given), lambda one: _print_list([one]))


@webhooks.command("delete", epilog=EXIT_CODES_OF_MANY)
@_WEBHOOKS
@client_command
def delete(console: Console, *, webhook_ids: tuple[str, ...]) -> None:
    """Delete webhooks. What was not delivered goes with them.

    \b
    Examples:
      penstock webhooks delete wh_019a...
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:

        def act(one: str) -> None:
            console.show(client.webhooks.delete(one), lambda gone: click.echo(f"{gone.id} deleted"))

        each(webhook_ids, act)


@webhooks.command("rotate", epilog=EXIT_CODES)
@_WEBHOOK
@_OVERLAP
@client_command
def rotate(console: Console, *, webhook_id: str, overlap: float | None) -> None:
    """Give a webhook a new secret and print it. Each message has both signatures for a while.

    \b
    Examples:
      penstock webhooks rotate wh_019a...
      penstock webhooks rotate wh_019a... --overlap 0      # the old one has leaked
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.webhooks.rotate(webhook_id, _whole(overlap)), _print_secret)


@webhooks.command("secret", epilog=EXIT_CODES)
@option("--rotate", "rotating", is_flag=True, help="Make a new one.")
@_OVERLAP
@client_command
def secret(console: Console, *, rotating: bool, overlap: float | None) -> None:
    """Print the secret that signs what `submit --webhook` has sent. Your tenant has one for all such jobs.

    \b
    Examples:
      penstock webhooks secret
      penstock webhooks secret --rotate --overlap 1h
    """  # noqa: D301  # \b is click's mark
    if overlap is not None and not rotating:
        raise click.UsageError("--overlap goes with --rotate")
    with console.client() as client:
        told = client.webhooks.rotate_secret(_whole(overlap)) if rotating else client.webhooks.secret()
        console.show(told, _print_tenants)


@webhooks.command("test", epilog=EXIT_CODES)
@_WEBHOOK
@client_command
def test(console: Console, *, webhook_id: str) -> None:
    """Send a ping.

    \b
    Examples:
      penstock webhooks test wh_019a... && penstock webhooks deliveries wh_019a... --limit 1
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show(client.webhooks.test(webhook_id), _print_sent)


@webhooks.command("deliveries", epilog=EXIT_CODES)
@_WEBHOOK
@option("--dead", is_flag=True, help="Events that were given up, instead.")
@limit_options
@client_command
def deliveries(console: Console, *, webhook_id: str, dead: bool, limit: int | None) -> None:
    """List tries to deliver, newest first: the event, the answer's status, how long it took.

    \b
    Examples:
      penstock webhooks deliveries wh_019a...
      penstock webhooks deliveries wh_019a... --json --limit 1 | jq -r .answer
      penstock webhooks deliveries wh_019a... --dead
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        if dead:
            console.show_all(client.webhooks.dead(webhook_id, limit=limit), _print_dead)
        else:
            console.show_all(client.webhooks.deliveries(webhook_id, limit=limit), _print_tries)


@webhooks.command("resend", epilog=EXIT_CODES_OF_MANY)
@_WEBHOOK
@argument("event_ids", metavar="EVENT...", nargs=-1, required=True, type=named("the event's id"))
@client_command
def resend(console: Console, *, webhook_id: str, event_ids: tuple[str, ...]) -> None:
    """Send events again that were tried or given up, each under its own id.

    \b
    Examples:
      penstock webhooks resend wh_019a... evt_0bee...
      penstock webhooks deliveries wh_019a... --dead --all --json | jq -r .event.id |
        xargs penstock webhooks resend wh_019a...
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:

        def act(one: str) -> None:
            console.show(client.webhooks.resend(webhook_id, one), _print_sent)

        each(event_ids, act)


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _print_secret(webhook: Webhook) -> None:
    """Print a new secret, alone on stdout, so that a script can take it."""
    click.echo(
        f"{webhook.id}: {' '.join(webhook.events)} to {webhook.url}. Keep the secret: it is shown this once.",
        err=True,
    )
    click.echo(webhook.secret)


def _print_tenants(told: WebhookSecret) -> None:
    click.echo(told.secret)


def _print_sent(sent: Sent) -> None:
    click.echo(sent.id)


def _print_list(found: Iterable[Webhook]) -> None:
    columns: Columns[Webhook] = [
        Column("id", lambda one: one.id),
        Column("state", lambda one: one.disabled_reason or one.state),
        Column("url", lambda one: one.url, cut=True),
        Column("events", lambda one: " ".join(one.events), cut=True),
        Column("pending", lambda one: str(one.pending), right=True),
        Column("dead", lambda one: str(one.dead), right=True),
        Column("created", lambda one: ago(one.created_at)),
        Column("description", lambda one: one.description, cut=True),
    ]
    _print(columns, found, "no webhooks")


def _print_tries(found: Iterable[Delivery]) -> None:
    columns: Columns[Delivery] = [
        Column("when", lambda one: _when(one.at)),
        Column("event", lambda one: one.event.id),
        Column("type", lambda one: one.event.type),
        Column("object", lambda one: one.event.object_id),
        Column("try", lambda one: str(one.attempt), right=True),
        Column("status", lambda one: str(one.status or one.error or "")),
        Column("ms", lambda one: str(one.took_ms), right=True),
        Column("answer", lambda one: one.answer, cut=True),
    ]
    _print(columns, found, "no deliveries")


def _print_dead(found: Iterable[DeadLetter]) -> None:
    columns: Columns[DeadLetter] = [
        Column("when", lambda one: _when(one.at)),
        Column("event", lambda one: one.event.id),
        Column("type", lambda one: one.event.type),
        Column("object", lambda one: one.event.object_id),
        Column("why", lambda one: one.reason),
        Column("tries", lambda one: str(one.attempts), right=True),
    ]
    _print(columns, found, "no dead letters")


def _print(columns: Columns[Any], found: Iterable[Any], none: str) -> None:
    made = table(columns, found)
    if made.row_count:
        screen().print(made)
    else:
        note(none)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
