"""``penstock jobs retry``: finished jobs by name, or dead ones by what they have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES_OF_MANY, JOB_NOT_OK, OK, REFUSED, note
from penstock.cli._names import models
from penstock.cli._parse import duration, named
from penstock.cli._run import Console, client_command, each
from penstock.cli._table import plural
from penstock.cli._watch import countdown, spinner
from penstock.cli._watch import wait as wait_for

if TYPE_CHECKING:
    from penstock.client import Penstock

_BATCH = 100
"""Jobs in one request of a bulk retry: few enough to show progress."""

_LIMIT = 100
"""The most dead jobs to retry, unless told otherwise."""


@click.command("retry", epilog=EXIT_CODES_OF_MANY)
@argument("job_ids", metavar="[JOB]...", type=named("the job id"), nargs=-1)
@option("--wait", "waiting", is_flag=True, help="Then wait for the new jobs' results.")
@option("--timeout", type=duration, metavar="TIME", help="With --wait: stop waiting after, for example, 5m.")
@option("--dead", is_flag=True, help="Jobs that failed or expired and were not retried; choose them by:")
@option("--code", help="Those that failed with it: worker_lost, timeout, engine_error, ...")
@option("--model", shell_complete=models, help="Those of this model.")
@option("-n", "--limit", type=click.IntRange(min=1), help=f"The most to retry.  [default: {_LIMIT}]")
@option("--all", "everything", is_flag=True, help="All that match, whatever --limit says.")
@client_command
def retry(  # the ways to choose jobs
    console: Console,
    *,
    job_ids: tuple[str, ...],
    waiting: bool,
    timeout: float | None,
    dead: bool,
    code: str | None,
    model: str | None,
    limit: int | None,
    everything: bool,
) -> None:
    """Retry finished jobs, however they ended, and print the new jobs. With --dead, retry many failed ones.

    \b
    Examples:
      penstock jobs retry job_0199...
      penstock jobs retry job_0199... --wait
      new=$(penstock jobs retry job_0199... --json | jq -r .id)
      penstock jobs retry --dead --code worker_lost
      penstock jobs retry --dead --model my-model --all
      penstock jobs retry --dead --all --json | jq -r .retried_as | xargs penstock jobs wait

    The old job stays as it is; its field retried_as names the new one. A job is retried once: a second call
    returns the same new job.

    With --dead it prints a line for each job: the old one and the new one, or why it was not retried. Exit code 4 if
    one could not be retried; the others were.
    """  # noqa: D301  # \b is click's mark
    if dead:
        if waiting or timeout is not None:
            raise click.UsageError("--wait goes with named jobs, not with --dead")
        _retry_dead(console, job_ids, code, model, limit or _LIMIT, everything=everything)
        return
    if code or model or limit or everything:
        raise click.UsageError("--code, --model, --limit and --all go with --dead")
    if not job_ids:
        raise click.UsageError("name jobs, or choose failed ones with --dead")
    if timeout is not None and not waiting:
        raise click.UsageError("--timeout goes with --wait")
    left_s = countdown(timeout)

    def act(old: str) -> int:
        job = client.jobs.retry(old)
        said = f"{old} was retried as {job.id}"
        if not waiting:
            console.show(job, said)
            return OK
        if not console.json:
            note(said)
        return OK if wait_for(console, client, job.id, left_s()) else JOB_NOT_OK

    with console.client() as client:
        each(job_ids, act)


def _retry_dead(
    console: Console,
    job_ids: tuple[str, ...],
    code: str | None,
    model: str | None,
    limit: int,
    *,
    everything: bool,
) -> None:
    """Retry dead jobs: the named ones, or those that match."""
    chosen = code or model or everything
    if job_ids and chosen:
        raise click.UsageError("name jobs, or choose them with --code, --model and --all; not both")
    if not job_ids and not chosen:
        raise click.UsageError("name jobs, or choose them with --code or --model, or retry all with --all")
    with console.client() as client:
        wanted: Iterable[str] = job_ids
        if not job_ids:
            # One more than the limit, to know whether any are left. Chosen here, by their ids, and not by
            # the server, so that a job that cannot be retried is not met a second time.
            found = client.dead.list(code=code, model=model, limit=None if everything else limit + 1)
            wanted = (job.id for job in found)
        ids = iter(wanted)
        done, refused = _retry_in_batches(console, client, ids if everything else islice(ids, limit))
        left = not everything and not job_ids and next(ids, None) is not None
    note(_told(done, refused) + ("; more are left: --all retries them all" if left else ""))
    if refused:
        raise SystemExit(REFUSED)


def _retry_in_batches(console: Console, client: Penstock, ids: Iterator[str]) -> tuple[int, int]:
    """Retry jobs, batch by batch, and show each; return how many were retried, and how many could not be."""
    done = refused = 0
    # On a terminal the lines themselves show the progress.
    shown = sys.stdout.isatty() and not console.json
    with nullcontext() if shown else spinner("retrying dead jobs") as status:
        while batch := list(islice(ids, _BATCH)):
            for outcome in client.dead.retry(batch).data:
                done, refused = done + bool(outcome.retried_as), refused + (not outcome.retried_as)
                why = f"{outcome.error.code}: {outcome.error.message}" if outcome.error else "no reason given"
                console.show(outcome, f"{outcome.id}  {outcome.retried_as or why}")
            if status is not None:
                status.update(_told(done, refused))
    return done, refused


def _told(done: int, refused: int) -> str:
    """Say how many jobs were retried so far."""
    return f"{plural(done, 'job')} retried" + (f", {refused} could not be" if refused else "")
