"""The commands that run jobs again: ``penstock retry``, ``penstock dead list`` and ``penstock dead retry``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING

import click

from penstock.cli import _output as output
from penstock.cli._parse import job_id as job_id_type
from penstock.cli._run import EXIT_CODES, JOB_NOT_OK, REFUSED, Console, client_command, note
from penstock.cli._watch import wait as wait_for

if TYPE_CHECKING:
    from rich.status import Status

    from penstock.client import Penstock

_BATCH = 100
"""Jobs in one request of a bulk retry: small enough for progress to be seen."""

_CODE_HELP = "Only those that failed with it: worker_lost, timeout, engine_error, ..."


@click.command("retry", epilog=EXIT_CODES)
@click.argument("job_ids", metavar="JOB...", type=job_id_type, nargs=-1, required=True)
@click.option("--wait", "waiting", is_flag=True, help="Then wait for the new jobs' results.")
@client_command
def retry(console: Console, *, job_ids: tuple[str, ...], waiting: bool) -> None:
    """Run jobs again that are over, however they ended, and print the new jobs.

    \b
    Examples:
      penstock retry job_0199...
      penstock retry job_0199... --wait
      new=$(penstock retry job_0199... --json | jq -r .id)

    The old job stays as it is; its field retried_as names the new one. A job is run again once: asked twice,
    you get the same new job. For many failed jobs at once there is: penstock dead retry.
    """  # noqa: D301  # \b is click's mark
    good = True
    with console.client() as client:
        for old in job_ids:
            job = client.jobs.retry(old)
            if waiting:
                if not console.json:
                    note(f"{old} runs again as {job.id}")
                good &= wait_for(console, client, job.id)
            elif console.json:
                output.as_json(job)
            else:
                click.echo(f"{old} runs again as {job.id}")
    if not good:
        raise SystemExit(JOB_NOT_OK)


@click.group("dead")
def dead() -> None:
    """Jobs that failed or expired and were not run again: list them, run them again.

    \b
    Examples:
      penstock dead list
      penstock dead list --code worker_lost
      penstock dead retry --code worker_lost --all
    """  # noqa: D301  # \b is click's mark


@dead.command("list", epilog=EXIT_CODES)
@click.option("--code", help=_CODE_HELP)
@click.option("--model", help="Only jobs of this model.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@click.option("--all", "everything", is_flag=True, help="All of them, whatever --limit says.")
@client_command
def dead_list(console: Console, *, code: str | None, model: str | None, limit: int, everything: bool) -> None:
    """List dead jobs with why they died.

    \b
    Examples:
      penstock dead list
      penstock dead list --code timeout --model my-model
      penstock dead list --all --json | jq -r '.error.code' | sort | uniq -c

    Newest end first; an expired job has no code. A job leaves the list when it is run again, and with its
    record (retention_s after its end).
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        jobs = client.dead.list(code=code, model=model, limit=None if everything else limit)
        if not console.json:
            output.dead_table(jobs)
            return
        for job in jobs:
            output.as_json(job)


@dead.command("retry", epilog=EXIT_CODES)
@click.argument("job_ids", metavar="[JOB]...", type=job_id_type, nargs=-1)
@click.option("--code", help=_CODE_HELP)
@click.option("--model", help="Only jobs of this model.")
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many."
)
@click.option("--all", "everything", is_flag=True, help="All that match, whatever --limit says.")
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
    """Run dead jobs again: those named, or those that match, or with --all every one.

    \b
    Examples:
      penstock dead retry job_0199... job_019a...
      penstock dead retry --code worker_lost
      penstock dead retry --model my-model --all
      penstock dead retry --all --json | jq -r .retried_as | xargs penstock wait

    Prints a line for each job: the old one and the new one, or why there is none. Exit code 4 where one could
    not be run again; the others were. It may be repeated: a job is run again once.
    """  # noqa: D301  # \b is click's mark
    if job_ids and (code or model or everything):
        msg = "name jobs, or choose them with --code, --model and --all; not both"
        raise click.UsageError(msg)
    if not (job_ids or code or model or everything):
        msg = "name jobs, or choose them with --code or --model, or take --all"
        raise click.UsageError(msg)
    with console.client() as client:
        chosen: Iterable[str]
        if job_ids:
            chosen = job_ids
        else:
            # One more than the limit, to know whether any are left. Chosen here, by their ids, and not by
            # the server, so that a job which cannot be run again is not met a second time.
            found = client.dead.list(code=code, model=model, limit=None if everything else limit + 1)
            chosen = (job.id for job in found)
        ids = iter(chosen)
        done, refused = _retry_in_batches(console, client, ids if everything else islice(ids, limit))
        left = not everything and not job_ids and next(ids, None) is not None
    note(_told(done, refused, left=left))
    if refused:
        raise SystemExit(REFUSED)


def _retry_in_batches(console: Console, client: Penstock, ids: Iterator[str]) -> tuple[int, int]:
    """Run jobs again, batch by batch, showing each; return how many were, and how many could not be."""
    done = refused = 0
    with _progress(console) as status:
        while batch := list(islice(ids, _BATCH)):
            for outcome in client.dead.retry(batch).data:
                if outcome.retried_as is None:
                    refused += 1
                else:
                    done += 1
                if console.json:
                    output.as_json(outcome)
                else:
                    why = outcome.error
                    became = outcome.retried_as or (
                        f"{why.code}: {why.message}" if why else "no reason given"
                    )
                    click.echo(output.printable(f"{outcome.id}  {became}"))
            if status is not None:
                status.update(_told(done, refused, left=False))
    return done, refused


def _told(done: int, refused: int, *, left: bool) -> str:
    """Return how far a bulk retry has come, in words."""
    text = f"{done} {'job runs' if done == 1 else 'jobs run'} again"
    if refused:
        text += f", {refused} could not be"
    return text + ("; more are left: --all takes them all" if left else "")


def _progress(console: Console) -> AbstractContextManager[Status | None]:
    """Show on stderr, where that is a terminal and the lines go elsewhere, how far it is."""
    if not sys.stderr.isatty() or (sys.stdout.isatty() and not console.json):
        return nullcontext()  # the lines themselves show it
    from rich.console import Console as RichConsole  # rich takes longer than --help

    return RichConsole(stderr=True).status("running dead jobs again")
