"""The commands that retry jobs: ``penstock retry``, ``penstock dead list`` and ``penstock dead retry``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING

import click
from click import argument, option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, EXIT_CODES_OF_MANY, JOB_NOT_OK, OK, REFUSED, note
from penstock.cli._parse import JOBS, duration, named
from penstock.cli._run import Console, client_command, each, limit_options
from penstock.cli._table import plural
from penstock.cli._watch import countdown, spinner
from penstock.cli._watch import wait as wait_for

if TYPE_CHECKING:
    from penstock.client import Penstock

_BATCH = 100
"""Jobs in one request of a bulk retry: few enough to show progress."""

_CODE = option("--code", help="Only jobs that failed with it: worker_lost, timeout, engine_error, ...")
_MODEL = option("--model", help="Only jobs of this model.")


@click.command("retry", epilog=EXIT_CODES_OF_MANY)
@JOBS
@option("--wait", "waiting", is_flag=True, help="Then wait for the new jobs' results.")
@option("--timeout", type=duration, metavar="TIME", help="With --wait: stop waiting after, for example, 5m.")
@client_command
def retry(console: Console, *, job_ids: tuple[str, ...], waiting: bool, timeout: float | None) -> None:
    """Retry finished jobs, however they ended, and print the new jobs.

    \b
    Examples:
      penstock retry job_0199...
      penstock retry job_0199... --wait
      new=$(penstock retry job_0199... --json | jq -r .id)

    The old job stays as it is; its field retried_as names the new one. A job is retried once: a second call
    returns the same new job. To retry many failed jobs, use: penstock dead retry.
    """  # noqa: D301  # \b is click's mark
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


@click.group("dead")
def dead() -> None:
    """Jobs that failed or expired and were not retried: list them, retry them.

    \b
    Examples:
      penstock dead list
      penstock dead list --code worker_lost
      penstock dead retry --code worker_lost --all
    """  # noqa: D301  # \b is click's mark


@dead.command("list", epilog=EXIT_CODES)
@_CODE
@_MODEL
@limit_options
@client_command
def dead_list(console: Console, *, code: str | None, model: str | None, limit: int | None) -> None:
    """List dead jobs and why they failed.

    \b
    Examples:
      penstock dead list
      penstock dead list --code timeout --model my-model
      penstock dead list --all --json | jq -r '.error.code' | sort | uniq -c

    The newest end comes first; an expired job has no code. A job leaves the list when it is retried, and when
    its record is deleted (retention_s after its end).
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.dead.list(code=code, model=model, limit=limit), output.dead_table)


@dead.command("retry", epilog=EXIT_CODES_OF_MANY)
@argument("job_ids", metavar="[JOB]...", type=named("the job id"), nargs=-1)
@_CODE
@_MODEL
@option(
    "-n", "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The most to retry."
)
@option("--all", "everything", is_flag=True, help="Retry all that match, whatever --limit says.")
@client_command
def dead_retry(
    console: Console,
    *,
    job_ids: tuple[str, ...],
    code: str | None,
    model: str | None,
    limit: int,
    everything: bool,
) -> None:
    """Retry dead jobs: the named ones, those that match, or with --all every one.

    \b
    Examples:
      penstock dead retry job_0199... job_019a...
      penstock dead retry --code worker_lost
      penstock dead retry --model my-model --all
      penstock dead retry --all --json | jq -r .retried_as | xargs penstock wait

    Prints a line for each job: the old one and the new one, or why it was not retried. Exit code 4 if one could
    not be retried; the others were. It may be repeated: a job is retried once.
    """  # noqa: D301  # \b is click's mark
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
