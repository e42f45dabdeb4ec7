"""``penstock jobs``: list, get, wait, stream, cancel. ``move`` and ``retry`` have modules of their own."""

from __future__ import annotations

import time
from typing import Literal

import click
from click import option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, EXIT_CODES_OF_MANY, JOB_NOT_OK, OK
from penstock.cli._group import Group
from penstock.cli._names import models
from penstock.cli._parse import JOB, JOBS, duration
from penstock.cli._run import Console, client_command, each, limit_options, print_json
from penstock.cli._watch import countdown, watch
from penstock.cli._watch import wait as wait_for
from penstock.cli.jobs_move import move
from penstock.cli.jobs_retry import retry

_STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"]


@click.group("jobs", cls=Group)
def jobs() -> None:
    """Jobs: list, get, wait, stream, cancel, move, retry.

    \b
    Examples:
      penstock jobs list --state running
      penstock jobs stream job_0199...
      penstock jobs move job_0199... --priority high
      penstock jobs retry --dead --code worker_lost
    """  # noqa: D301  # \b is click's mark


@jobs.command("wait", epilog=EXIT_CODES_OF_MANY)
@JOBS
@option("--timeout", type=duration, metavar="TIME", help="Give up waiting after, for example, 10m.")
@client_command
def wait(console: Console, *, job_ids: tuple[str, ...], timeout: float | None) -> None:
    """Wait until jobs have ended and print their results.

    \b
    Examples:
      penstock jobs wait job_0199...
      penstock jobs wait job_0199... --timeout 5m --json | jq .result.usage
      penstock jobs list --state running --json | jq -r .id | xargs penstock jobs wait

    The timeout is for all of the jobs together. When you stop waiting, the jobs continue.
    """  # noqa: D301  # \b is click's mark
    left_s = countdown(timeout)
    with console.client() as client:
        each(job_ids, lambda job_id: OK if wait_for(console, client, job_id, left_s()) else JOB_NOT_OK)


@jobs.command("stream", epilog=EXIT_CODES)
@JOB
@option("--after", metavar="CURSOR", help="Continue after this event id.")
@client_command
def stream(console: Console, *, job_id: str, after: str | None) -> None:
    """Follow a job: its text as it is generated, or its events as JSON lines.

    \b
    Examples:
      penstock jobs stream job_0199...
      penstock jobs stream job_0199... --text > answer.txt
      penstock jobs stream job_0199... --json | jq -c 'select(.event == "chunk") | .data'
      penstock jobs stream job_0199... --after 1-42

    A dropped connection resumes where it stopped. Ctrl-C stops watching, not the job.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        watch(console, client, job_id, after)


@jobs.command("get", epilog=EXIT_CODES)
@JOB
@option("--result", is_flag=True, help="Print only the raw OpenAI response.")
@client_command
def get(console: Console, *, job_id: str, result: bool) -> None:
    """Show a job as it is now.

    \b
    Examples:
      penstock jobs get job_0199...
      penstock jobs get job_0199... --result > response.json
      penstock jobs get job_0199... --json | jq -r .state
      penstock jobs get job_0199... --json | jq '{position, eta_s}'
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        if result:
            print_json(client.jobs.result(job_id))
        else:
            console.show(client.jobs.get(job_id), output.job_panel)


@jobs.command("list", epilog=EXIT_CODES)
@option("--state", type=click.Choice(_STATES), help="Only jobs in this state.")
@option("--model", shell_complete=models, help="Only jobs of this model.")
@option("--since", type=duration, metavar="TIME", help="Only jobs of the last, for example, 1h.")
@option("--dead", is_flag=True, help="Only jobs that failed or expired and were not retried, and why.")
@option("--code", help="With --dead: only those that failed with it: worker_lost, timeout, ...")
@limit_options
@option("--oldest-first", is_flag=True, help="List the oldest first; otherwise the newest.")
@client_command
def list_jobs(  # its filters
    console: Console,
    *,
    state: str | None,
    model: str | None,
    since: float | None,
    dead: bool,
    code: str | None,
    limit: int | None,
    oldest_first: bool,
) -> None:
    """List jobs, newest first.

    \b
    Examples:
      penstock jobs list
      penstock jobs list --state failed --since 1h
      penstock jobs list --state queued --oldest-first
      penstock jobs list --all --json | jq -r 'select(.usage) | .usage.total_tokens'
      penstock jobs list --dead --code timeout --model my-model
      penstock jobs list --dead --all --json | jq -r '.error.code' | sort | uniq -c

    Dead jobs are listed by their ends; an expired one has no code. A job leaves that list when it is retried, and when
    its record is deleted (retention_s after its end).
    """  # noqa: D301  # \b is click's mark
    if dead and (state is not None or since is not None or oldest_first):
        raise click.UsageError("--dead goes with --code, --model and the limits only")
    if code is not None and not dead:
        raise click.UsageError("--code goes with --dead")
    created_after = None if since is None else time.time() - since
    order: Literal["asc"] | None = "asc" if oldest_first else None
    with console.client() as client:
        if dead:
            console.show_all(client.dead.list(code=code, model=model, limit=limit), output.dead_table)
            return
        found = client.jobs.list(
            state=state, model=model, created_after=created_after, order=order, limit=limit
        )
        console.show_all(found, output.jobs_table)


@jobs.command("cancel", epilog=EXIT_CODES_OF_MANY)
@JOBS
@client_command
def cancel(console: Console, *, job_ids: tuple[str, ...]) -> None:
    """Cancel jobs: a queued one ends at once, a running one within about a second.

    \b
    Examples:
      penstock jobs cancel job_0199...
      penstock jobs list --state queued --all --json | jq -r .id | xargs penstock jobs cancel

    A job that has already ended stays as it is; that is no error.
    """  # noqa: D301  # \b is click's mark

    def act(job_id: str) -> None:
        job = client.jobs.cancel(job_id)
        state = "cancel requested" if job.cancel_requested and not job.done else job.state
        console.show(job, f"{job.id} {state}")

    with console.client() as client:
        each(job_ids, act)


for command in (move, retry):
    jobs.add_command(command)
