"""The commands that look at jobs or end them: wait, stream, get, list, cancel."""

from __future__ import annotations

import time
from typing import Literal

import click
from click import option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, EXIT_CODES_OF_MANY, JOB_NOT_OK, OK
from penstock.cli._parse import JOB, JOBS, duration
from penstock.cli._run import Console, client_command, each, limit_options, print_json
from penstock.cli._watch import countdown, watch
from penstock.cli._watch import wait as wait_for

_STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"]


@click.command("wait", epilog=EXIT_CODES_OF_MANY)
@JOBS
@option("--timeout", type=duration, metavar="TIME", help="Give up waiting after, for example, 10m.")
@client_command
def wait(console: Console, *, job_ids: tuple[str, ...], timeout: float | None) -> None:
    """Wait until jobs have ended and print their results.

    \b
    Examples:
      penstock wait job_0199...
      penstock wait job_0199... --timeout 5m --json | jq .result.usage
      penstock list --state running --json | jq -r .id | xargs penstock wait

    The timeout is for all of the jobs together. When you stop waiting, the jobs continue.
    """  # noqa: D301  # \b is click's mark
    left_s = countdown(timeout)
    with console.client() as client:
        each(job_ids, lambda job_id: OK if wait_for(console, client, job_id, left_s()) else JOB_NOT_OK)


@click.command("stream", epilog=EXIT_CODES)
@JOB
@option("--after", metavar="CURSOR", help="Continue after this event id.")
@client_command
def stream(console: Console, *, job_id: str, after: str | None) -> None:
    """Follow a job: its text as it is generated, or its events as JSON lines.

    \b
    Examples:
      penstock stream job_0199...
      penstock stream job_0199... --text > answer.txt
      penstock stream job_0199... --json | jq -c 'select(.event == "chunk") | .data'
      penstock stream job_0199... --after 1-42

    A dropped connection resumes where it stopped. Ctrl-C stops watching, not the job.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        watch(console, client, job_id, after)


@click.command("get", epilog=EXIT_CODES)
@JOB
@option("--result", is_flag=True, help="Print only the raw OpenAI response.")
@client_command
def get(console: Console, *, job_id: str, result: bool) -> None:
    """Show a job as it is now.

    \b
    Examples:
      penstock get job_0199...
      penstock get job_0199... --result > response.json
      penstock get job_0199... --json | jq -r .state
      penstock get job_0199... --json | jq '{position, eta_s}'
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        if result:
            print_json(client.jobs.result(job_id))
        else:
            console.show(client.jobs.get(job_id), output.job_panel)


@click.command("list", epilog=EXIT_CODES)
@option("--state", type=click.Choice(_STATES), help="Only jobs in this state.")
@option("--model", help="Only jobs of this model.")
@option("--since", type=duration, metavar="TIME", help="Only jobs of the last, for example, 1h.")
@limit_options
@option("--oldest-first", is_flag=True, help="List the oldest first; otherwise the newest.")
@client_command
def list_jobs(
    console: Console,
    *,
    state: str | None,
    model: str | None,
    since: float | None,
    limit: int | None,
    oldest_first: bool,
) -> None:
    """List jobs, newest first.

    \b
    Examples:
      penstock list
      penstock list --state failed --since 1h
      penstock list --state queued --oldest-first
      penstock list --all --json | jq -r 'select(.usage) | .usage.total_tokens'
    """  # noqa: D301  # \b is click's mark
    created_after = None if since is None else time.time() - since
    order: Literal["asc"] | None = "asc" if oldest_first else None
    with console.client() as client:
        jobs = client.jobs.list(
            state=state, model=model, created_after=created_after, order=order, limit=limit
        )
        console.show_all(jobs, output.jobs_table)


@click.command("cancel", epilog=EXIT_CODES_OF_MANY)
@JOBS
@client_command
def cancel(console: Console, *, job_ids: tuple[str, ...]) -> None:
    """Cancel jobs: a queued one ends at once, a running one within about a second.

    \b
    Examples:
      penstock cancel job_0199...
      penstock list --state queued --all --json | jq -r .id | xargs penstock cancel

    A job that has already ended stays as it is; that is no error.
    """  # noqa: D301  # \b is click's mark

    def act(job_id: str) -> None:
        job = client.jobs.cancel(job_id)
        state = "cancel requested" if job.cancel_requested and not job.done else job.state
        console.show(job, f"{job.id} {state}")

    with console.client() as client:
        each(job_ids, act)
