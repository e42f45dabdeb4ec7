"""``penstock worker``: list and drain workers. ``run``, ``follow`` and ``check`` have a module of their own."""

from __future__ import annotations

import time

import click
from click import argument, option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, note
from penstock.cli._group import Group
from penstock.cli._names import workers
from penstock.cli._parse import grace, named
from penstock.cli._run import Console, client_command
from penstock.cli._table import plural
from penstock.cli.worker_run import check, follow, run

_LOOK_EVERY_S = 0.5


@click.group("worker", cls=Group)
def worker() -> None:
    """Workers: run one on this machine, list those that live, drain them.

    \b
    Examples:
      penstock worker run --model Qwen/Qwen2.5-7B-Instruct --gpus 0 --redis-url redis://queue:6379/0
      penstock worker list
      penstock worker drain gpu0@host --wait
    """  # noqa: D301  # \b is click's mark


@worker.command("list", epilog=EXIT_CODES)
@client_command
def list_workers(console: Console) -> None:
    """List the live workers and how busy they are.

    \b
    Examples:
      penstock worker list
      penstock worker list --json | jq -r 'select(.state == "draining") | .name'

    The figures are as of each worker's last heartbeat. A lost worker is listed until its lease ends.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.workers.list(), output.workers_table)


@worker.command("drain", epilog=EXIT_CODES, short_help="Let a worker finish its jobs and end.")
@argument("name", metavar="NAME", type=named("the worker's name"), shell_complete=workers)
@option(
    "--timeout",
    type=grace,
    metavar="TIME",
    help="How long running jobs may take: 2m, or 0; default: the worker's drain_timeout_s.",
)
@option("--wait", "waiting", is_flag=True, help="Return when it has ended.")
@client_command
def drain(console: Console, *, name: str, timeout: float | None, waiting: bool) -> None:
    """Let a worker finish its running jobs, give back the rest, and end with status 0.

    NAME is a worker's name as `penstock worker list` shows it (every worker of that name), or the id of one
    incarnation.

    \b
    Examples:
      penstock worker drain gpu0@host
      penstock worker drain gpu0@host --timeout 5m --wait

    The worker takes no new jobs from now on. Jobs that are not done in time return to the head of their queue
    and use up no attempt. To drain a worker twice has the same effect as once.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        asked = client.workers.drain(name, timeout)
        for worker in asked:
            text = f"{worker.name} drains: {plural(worker.running, 'job')} running  ({worker.id})"
            console.show(worker, text)
        if waiting:
            ids = {worker.id for worker in asked}
            while ids & {worker.id for worker in client.workers.list()}:
                time.sleep(_LOOK_EVERY_S)
            note("ended" if len(ids) == 1 else f"all {len(ids)} ended")


for command in (run, follow, check):
    worker.add_command(command)
