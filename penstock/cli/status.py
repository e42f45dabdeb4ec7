"""``penstock status``: health, models, workers and queues in one look."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click import option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, REFUSED, fail, message_of, note
from penstock.cli._local import running_here
from penstock.cli._run import Console, client_command, print_json
from penstock.cli.queue import show_queues

if TYPE_CHECKING:
    from penstock.client import Penstock
    from penstock.models import Health

T = TypeVar("T")


@click.command("status", epilog=EXIT_CODES)
@option("--health", "only_health", is_flag=True, help="Only whether jobs can run; it needs no key.")
@client_command
def status(console: Console, *, only_health: bool) -> None:
    """Show whether the server can run jobs, its models, workers and queues. Exit code 4 if it cannot.

    \b
    Examples:
      penstock status
      penstock status --json | jq '.queues[] | {pool, queued, running}'
      until penstock status --health --json > /dev/null; do sleep 1; done

    A part that the key may not see is left out, and said on stderr. With --json: one object, in which it is null.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        health = _health(client)
        if only_health:
            console.show(health, lambda health: output.health_lines(health, client.base_url))
        else:
            _show(console, client, health)
        here = client.base_url == running_here()
    if not health.ready:
        if here and not console.json:
            note(
                "`penstock up` of this folder starts again what was lost. Its terminal says how long that takes."
            )
        raise SystemExit(REFUSED)


def _health(client: Penstock) -> Health:
    from penstock.errors import APIStatusError

    try:
        return client.health()
    except APIStatusError as error:
        if error.code is None and error.status < 500:  # all errors of Penstock have a code
            fail(f"what answers at {client.base_url} is not Penstock; name the server with --url", REFUSED)
        raise


def _show(console: Console, client: Penstock, health: Health) -> None:
    models = _allowed("models", client.models)
    workers = _allowed("workers", client.workers.list)
    pools = _allowed("queues", lambda: tuple(client.pools.list()))
    if console.json:
        parts: dict[str, Any] = {"models": models, "workers": workers, "queues": pools}
        plain = {name: part and [one.model_dump(mode="json") for one in part] for name, part in parts.items()}
        print_json({"url": client.base_url, **health.model_dump(mode="json"), **plain})
        return
    output.health_lines(health, client.base_url)
    _part(models, output.models_table)
    _part(workers, output.workers_table)
    _part(pools, show_queues)


def _part(items: T | None, show: Callable[[T], object]) -> None:
    if items is not None:
        click.echo()
        show(items)


def _allowed(what: str, ask: Callable[[], T]) -> T | None:
    """Return what the server says, or None, and say why, if this key may not ask for it."""
    from penstock.errors import AuthenticationError, PermissionDeniedError

    try:
        return ask()
    except (AuthenticationError, PermissionDeniedError) as error:
        note(f"{what} are not shown: {message_of(error)}")
        return None
