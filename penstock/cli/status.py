"""``penstock status``: health, models, workers and queues in one look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click import option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, OK, REFUSED, exit_code, fail, message_of, note, worse
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

    A part that the key may not see, or that fails, is left out, and said on stderr. With --json: one object, in which it
    is null.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        health = _health(client)
        code = OK if health.ready else REFUSED
        if only_health:
            console.show(health, lambda health: output.health_lines(health, client.base_url))
        elif health.ready:
            code = _show(console, client, health)
        else:  # to try again would only keep the reader waiting
            with console.client(max_retries=0) as once:
                code = worse(code, _show(console, once, health))
        here = client.base_url == running_here()
    if here and not health.ready and not console.json:
        note(
            "`penstock up` of this folder starts again what was lost. Its terminal says how long that takes."
        )
    if code != OK:
        raise SystemExit(code)


def _health(client: Penstock) -> Health:
    from penstock.errors import APIStatusError

    try:
        return client.health()
    except APIStatusError as error:
        if error.code is None and error.status < 500:  # all errors of Penstock have a code
            fail(f"what answers at {client.base_url} is not Penstock; name the server with --url", REFUSED)
        raise


def _show(console: Console, client: Penstock, health: Health) -> int:
    """Show the health, then each part as it comes; return the exit code of the parts that failed."""
    if not console.json:
        output.health_lines(health, client.base_url)
    asked: tuple[tuple[str, Callable[[], Sequence[Any]], Callable[[Any], object]], ...] = (
        ("models", client.models, output.models_table),
        ("workers", client.workers.list, output.workers_table),
        ("queues", lambda: tuple(client.pools.list()), show_queues),
    )
    code, plain = OK, {}
    for what, ask, show in asked:
        items, failed = _allowed(what, ask)
        code = worse(code, failed)
        plain[what] = None if items is None else [one.model_dump(mode="json") for one in items]
        if not console.json and items is not None:
            click.echo()
            show(items)
    if console.json:
        print_json({"url": client.base_url, **health.model_dump(mode="json"), **plain})
    return code


def _allowed(what: str, ask: Callable[[], T]) -> tuple[T | None, int]:
    """Return what the server says, or None, and say why; and the exit code, which is 0 if this key may not ask for it."""
    from penstock.errors import AuthenticationError, PenstockError, PermissionDeniedError

    try:
        return ask(), OK
    except PenstockError as error:
        note(f"{what} are not shown: {message_of(error)}")
        refused = isinstance(error, AuthenticationError | PermissionDeniedError)
        return None, OK if refused else exit_code(error)
