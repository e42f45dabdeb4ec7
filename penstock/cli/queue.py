"""``penstock queue``: look at the queues, and pause, resume and purge them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES, USAGE, fail
from penstock.cli._group import Group
from penstock.cli._names import pools
from penstock.cli._parse import LANES, named
from penstock.cli._run import Console, client_command, print_json
from penstock.cli._table import plural, screen

if TYPE_CHECKING:
    from penstock.client import Penstock
    from penstock.fleet_models import Pool

_POOL = argument("pool", type=named("the pool's name"), shell_complete=pools)


@click.group("queue", cls=Group)
def queue() -> None:
    """Look at the queues; pause, resume and purge them. A single job: see penstock jobs move.

    \b
    Examples:
      penstock queue list
      penstock queue pause default
      penstock queue purge default bulk
    """  # noqa: D301  # \b is click's mark


@queue.command("list", epilog=EXIT_CODES)
@client_command
def list_queues(console: Console) -> None:
    """Show every pool and its lanes: the waiting jobs, their age, their tenants, and how long jobs run.

    \b
    Examples:
      penstock queue list
      penstock queue list --json | jq 'select(.paused) | .pool'
      penstock queue list --json | jq '.lanes[] | select(.oldest_s > 60)'

    Lanes are served from the top down, `bulk` within its share of the slots. The mean run is that of the lanes
    realtime to low together, and that of bulk. With --json: one pool a line.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.pools.list(), show_queues)


@queue.command("pause", epilog=EXIT_CODES)
@_POOL
@client_command
def pause(console: Console, *, pool: str) -> None:
    """Start no more jobs of a pool, until it is resumed.

    \b
    Examples:
      penstock queue pause default
      penstock queue list                # shows that it is paused

    New jobs are accepted and wait; running jobs finish; time limits and deadlines still count. To pause twice
    has the same effect as once.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        _say(console, client.pools.pause(pool))


@queue.command("resume", epilog=EXIT_CODES)
@_POOL
@client_command
def resume(console: Console, *, pool: str) -> None:
    """Start the jobs of a paused pool again.

    \b
    Examples:
      penstock queue resume default
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        _say(console, client.pools.resume(pool))


@queue.command("unpoison", epilog=EXIT_CODES)
@_POOL
@client_command
def unpoison(console: Console, *, pool: str) -> None:
    """Take requests again whose kind ended engines of a pool.

    \b
    Examples:
      penstock queue unpoison default

    A request that ends an engine twice fails with `poisoned`, and others of its kind are refused with `poisoned_kind`
    for six hours. Use this when the cause is mended: an engine of another version, or another option.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        _say(console, client.pools.unpoison(pool))


@queue.command("purge", epilog=EXIT_CODES)
@_POOL
@argument("lane", type=click.Choice(LANES))
@option("--yes", is_flag=True, help="Do not ask for confirmation.")
@client_command
def purge(console: Console, *, pool: str, lane: str, yes: bool) -> None:
    """Cancel every job that waits in a lane, of all tenants. Running jobs finish.

    \b
    Examples:
      penstock queue purge default bulk
      penstock queue purge default low --yes --json | jq .cancelled

    A cancelled job can be retried: see penstock jobs retry.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        if not yes:
            _ask(client, pool, lane)
        cancelled = client.pools.purge(pool, lane)
    if console.json:
        print_json({"pool": pool, "lane": lane, "cancelled": cancelled})
    else:
        click.echo(f"{plural(cancelled, 'job')} cancelled")


def _say(console: Console, pool: Pool) -> None:
    state = "paused" if pool.paused else "not paused"
    console.show(pool, f"{pool.pool} is {state}: {pool.queued} queued, {pool.running} running")


def _ask(client: Penstock, pool: str, lane: str) -> None:
    """Ask the user to confirm a purge, or end here."""
    lanes = (there for one in client.pools.list() if one.pool == pool for there in one.lanes)
    queued = next((there.queued for there in lanes if there.lane == lane), None)
    what = "the jobs" if queued is None else plural(queued, "job")
    try:
        sure = click.confirm(f"Cancel {what} waiting in {pool}/{lane}?", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        fail("nobody answered; give --yes", USAGE)
    if not sure:
        fail("nothing was cancelled", USAGE)


def show_queues(pools: Iterable[Pool]) -> None:
    """Print the lanes, then the tenants if there are any but the one of all callers without keys."""
    from penstock.cli._top_view import NARROW, pools_table, tenants_table

    pools, rich = tuple(pools), screen(160)
    rich.print(pools_table(pools, wide=rich.width >= NARROW))
    tenants = [(pool, tenant) for pool in pools for tenant in pool.tenants]
    if any(tenant.tenant != "default" for _, tenant in tenants):
        rich.print()
        rich.print(tenants_table(tenants))
