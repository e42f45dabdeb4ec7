"""The commands that look at queues and steer them: ``penstock queue`` and ``penstock priority``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import _output as output
from penstock.cli._parse import job_id as job_id_type
from penstock.cli._run import EXIT_CODES, USAGE, Console, client_command, fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.client import Penstock
    from penstock.fleet_models import Pool
    from penstock.models import Job

_LANES = click.Choice(["realtime", "high", "normal", "low", "bulk"])
_PRIORITIES = click.Choice(["high", "normal", "low", "bulk"])
_WIDE = 160
"""Columns where the output is no terminal."""


@click.group("queue")
def queue() -> None:
    """Look at the queues; pause, resume and purge them; bring a job to the top.

    \b
    Examples:
      penstock queue ls
      penstock queue pause default
      penstock queue purge default bulk
      penstock queue top job_0199...
    """  # noqa: D301  # \b is click's mark


@queue.command("ls", epilog=EXIT_CODES)
@client_command
def ls(console: Console) -> None:
    """Show every pool and its lanes: what waits, since when, how fast jobs start, and whose they are.

    \b
    Examples:
      penstock queue ls
      penstock queue ls --json | jq 'select(.paused) | .pool'
      penstock queue ls --json | jq '.lanes[] | select(.oldest_s > 60)'

    Lanes are served from the top down, `bulk` within its share of the slots. Starts a second are those of the
    lanes realtime to low together, and of bulk, while jobs waited. With --json: one pool a line.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        pools = client.pools.list()
    if not console.json:
        _show(pools)
        return
    for pool in pools:
        output.as_json(pool)


@queue.command("pause", epilog=EXIT_CODES)
@click.argument("pool")
@client_command
def pause(console: Console, *, pool: str) -> None:
    """Let nothing more of a pool start.

    \b
    Examples:
      penstock queue pause default
      penstock queue ls                # it says so

    Jobs are accepted and wait, what runs goes on, limits and deadlines count on. Asked twice, it is as if asked
    once.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        _say(console, client.pools.pause(_given(pool)))


@queue.command("resume", epilog=EXIT_CODES)
@click.argument("pool")
@client_command
def resume(console: Console, *, pool: str) -> None:
    """Let a paused pool go on.

    \b
    Examples:
      penstock queue resume default
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        _say(console, client.pools.resume(_given(pool)))


@queue.command("purge", epilog=EXIT_CODES)
@click.argument("pool")
@click.argument("lane", type=_LANES)
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
def purge(console: Console, *, pool: str, lane: str, yes: bool) -> None:
    """Cancel every job that waits in a lane, whoever's it is. What runs goes on.

    \b
    Examples:
      penstock queue purge default bulk
      penstock queue purge default low --yes --json | jq .cancelled

    A cancelled job can be run again: see penstock retry.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        if not yes:
            _ask(client, _given(pool), lane)
        cancelled = client.pools.purge(_given(pool), lane)
    if console.json:
        output.as_json({"pool": pool, "lane": lane, "cancelled": cancelled})
    else:
        click.echo(f"{cancelled} {_jobs(cancelled)} cancelled")


@queue.command("top", epilog=EXIT_CODES)
@click.argument("job_ids", metavar="JOB...", type=job_id_type, nargs=-1, required=True)
@client_command
def top(console: Console, *, job_ids: tuple[str, ...]) -> None:
    """Make queued jobs the next of their lanes, before everybody else's; the last one named goes first.

    \b
    Examples:
      penstock queue top job_0199...
      penstock priority job_0199... high && penstock queue top job_0199...
    """  # noqa: D301  # \b is click's mark
    _change(console, job_ids, top=True)


@click.command("priority", epilog=EXIT_CODES)
@click.argument("job_id", metavar="JOB", type=job_id_type)
@click.argument("lane", type=_PRIORITIES)
@client_command
def priority(console: Console, *, job_id: str, lane: str) -> None:
    """Move a queued job to another lane: high, normal, low or bulk.

    \b
    Examples:
      penstock priority job_0199... high
      penstock list --state queued --all --json | jq -r .id | xargs -I{} penstock priority {} low

    It keeps its place by age among your jobs there. A job that has begun is refused, and so is a call to an OpenAI
    endpoint.
    """  # noqa: D301  # \b is click's mark
    _change(console, (job_id,), priority=lane)


def _change(console: Console, job_ids: Sequence[str], **change: Any) -> None:
    with console.client() as client:
        for job_id in job_ids:
            job = client.jobs.change(job_id, **change)
            if console.json:
                output.as_json(job)
            else:
                click.echo(_standing(job))


def _standing(job: Job) -> str:
    return ", ".join(part for part in (f"{job.id} {job.priority}", output.standing(job)) if part)


def _given(pool: str) -> str:
    if not pool.strip():
        msg = "the pool's name is empty"
        raise click.UsageError(msg)
    return pool


def _say(console: Console, pool: Pool) -> None:
    if console.json:
        output.as_json(pool)
        return
    state = "paused" if pool.paused else "not paused"
    click.echo(output.printable(f"{pool.pool} is {state}: {pool.queued} queued, {pool.running} running"))


def _ask(client: Penstock, pool: str, lane: str) -> None:
    """Have the user confirm a purge, or end here."""
    queued = [
        there.queued
        for one in client.pools.list()
        if one.pool == pool
        for there in one.lanes
        if there.lane == lane
    ]
    what = f"{queued[0]} {_jobs(queued[0])}" if queued else "what"
    try:
        sure = click.confirm(f"Cancel {what} waiting in {pool}/{lane}?", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        fail("nobody answered; give --yes", USAGE)
    if not sure:
        fail("nothing was cancelled", USAGE)


def _show(pools: Sequence[Pool]) -> None:
    """Print the tables: lanes, then tenants where there are any but the one of all callers without keys."""
    from rich.console import Console as RichConsole

    from penstock.cli._top_view import NARROW, pools_table, tenants_table

    rich = RichConsole(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    rich.print(pools_table(pools, narrow=rich.width < NARROW))
    tenants = [(pool, tenant) for pool in pools for tenant in pool.tenants]
    if any(tenant.tenant != "default" for _, tenant in tenants):
        rich.print()
        rich.print(tenants_table(tenants))


def _jobs(count: int) -> str:
    return "job" if count == 1 else "jobs"
