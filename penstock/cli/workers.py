"""The commands that look at workers and drain them: ``penstock workers`` and ``penstock worker drain``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from penstock.cli import _output as output
from penstock.cli._parse import grace
from penstock.cli._run import EXIT_CODES, Console, client_command, note

if TYPE_CHECKING:
    from penstock.client import Penstock

_LOOK_EVERY_S = 0.5


@click.command("workers", epilog=EXIT_CODES)
@client_command
def workers(console: Console) -> None:
    """List the workers that are alive, and how busy they are.

    \b
    Examples:
      penstock workers
      penstock workers --json | jq -r 'select(.state == "draining") | .name'

    What they run is as of their last heartbeat. A worker that was lost is listed until its lease ends.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        found = client.workers.list()
    if not console.json:
        output.workers_table(found)
        return
    for worker in found:
        output.as_json(worker)


@click.command("drain", epilog=EXIT_CODES, short_help="Have a worker finish and end.")
@click.argument("name", metavar="NAME")
@click.option(
    "--timeout",
    type=grace,
    metavar="TIME",
    help="How long running jobs may take: 2m, or 0; default: the worker's drain_timeout_s.",
)
@click.option("--wait", "waiting", is_flag=True, help="Return when it has ended.")
@client_command
def drain(console: Console, *, name: str, timeout: float | None, waiting: bool) -> None:
    """Have a worker finish what it runs, give back the rest, and end with status 0.

    NAME is a worker's name as `penstock workers` shows it (every worker of that name), or the id of one
    incarnation.

    \b
    Examples:
      penstock worker drain gpu0@host
      penstock worker drain gpu0@host --timeout 5m --wait

    It takes no new job from now on. Jobs that are not done in time go back to the head of their queue, without
    using up an attempt. Asked twice, it is as if asked once.
    """  # noqa: D301  # \b is click's mark
    if not name.strip():
        msg = "the worker's name is empty"
        raise click.UsageError(msg)
    with console.client() as client:
        told = client.workers.drain(name, timeout)
        for worker in told:
            if console.json:
                output.as_json(worker)
            else:
                jobs = "1 job" if worker.running == 1 else f"{worker.running} jobs"
                click.echo(output.printable(f"{worker.name} drains: {jobs} running  ({worker.id})"))
        if waiting:
            _until_gone(client, {worker.id for worker in told})


def _until_gone(client: Penstock, ids: set[str]) -> None:
    """Return when none of these incarnations is listed any more: they have ended, or their leases have."""
    while ids & {worker.id for worker in client.workers.list()}:
        time.sleep(_LOOK_EVERY_S)
    note("ended" if len(ids) == 1 else f"all {len(ids)} ended")
