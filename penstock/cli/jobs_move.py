"""``penstock jobs move``: queued jobs to another lane, or to the front of theirs."""

from __future__ import annotations

import click
from click import option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES_OF_MANY
from penstock.cli._parse import JOBS, PRIORITIES
from penstock.cli._run import Console, client_command, each


@click.command("move", epilog=EXIT_CODES_OF_MANY)
@JOBS
@option("--priority", type=PRIORITIES, help="The lane to move to.")
@option("--top", is_flag=True, help="The next of the lane, before everybody else's jobs.")
@client_command
def move(console: Console, *, job_ids: tuple[str, ...], priority: str | None, top: bool) -> None:
    """Move queued jobs to another lane, or to the front of their lane.

    \b
    Examples:
      penstock jobs move job_0199... --priority high
      penstock jobs move job_0199... --top
      penstock jobs move job_0199... --priority high --top
      penstock jobs list --state queued --all --json | jq -r .id | xargs penstock jobs move --priority low

    In its new lane a job is ordered by age among your other jobs. With --top, the last one named comes first. The
    server refuses a job that has started, and a call to an OpenAI endpoint.
    """  # noqa: D301  # \b is click's mark
    if priority is None and not top:
        raise click.UsageError("give --priority LANE, or --top, or both")

    def act(job_id: str) -> None:
        job = client.jobs.change(job_id, priority=priority, top=top)  # type: ignore[arg-type]  # click checked the lane
        console.show(job, ", ".join(filter(None, (f"{job.id} {job.priority}", output.standing(job)))))

    with console.client() as client:
        each(job_ids, act)
