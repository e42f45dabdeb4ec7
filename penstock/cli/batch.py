"""``penstock batch``: the commands about batches. ``run`` has a module of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from click import argument, option

from penstock.cli import _output as output
from penstock.cli._exits import EXIT_CODES, EXIT_CODES_OF_MANY, INTERRUPTED, JOB_NOT_OK, USAGE, fail, note
from penstock.cli._group import Group
from penstock.cli._parse import BATCH, BATCHES
from penstock.cli._run import Console, client_command, default_model, each, limit_options, print_json
from penstock.cli.batch_options import batch_options, making, row_options
from penstock.cli.batch_results import results, verify
from penstock.cli.batch_run import run


@click.group("batch", cls=Group)
def batch() -> None:
    """Bulk runs: files of prompts to files of answers, and batches on the server.

    \b
    Examples:
      penstock batch run prompts.txt -o out.jsonl
      penstock batch run reviews.csv -o out.jsonl --template "Summarise: {text}"
      penstock batch submit prompts.txt
      penstock batch watch batch_0199...
      penstock batch verify prompts.txt out.jsonl --errors out.errors.jsonl
    """  # noqa: D301  # \b is click's mark


@batch.command("submit", epilog=EXIT_CODES)
@argument("source", metavar="INPUT")
@batch_options
@row_options
@option("--webhook", "webhook_url", metavar="URL", help="Where its end is told; see penstock webhooks.")
@client_command
def submit(
    console: Console,
    *,
    source: str,
    window: str | None,
    priority: Any,
    metadata: tuple[tuple[str, str], ...],
    webhook_url: str | None,
    **options: Any,
) -> None:
    """Upload a file as a batch and return at once. INPUT and its options are those of: penstock batch run.

    \b
    Examples:
      penstock batch submit prompts.txt --model my-model
      id=$(penstock batch submit reviews.csv --template "Summarise: {text}" --json | jq -r .id)
      penstock batch results $id --follow -o out.jsonl
    """  # noqa: D301  # \b is click's mark
    from penstock.bulk.convert import convert
    from penstock.bulk.problems import InputError
    from penstock.bulk.source import opened

    made = making(**options)
    name = "input.jsonl" if source == "-" else f"{Path(source).stem}.jsonl"
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-") as folder, console.client() as client:
            rows = Path(folder) / "input.jsonl"
            with opened(source) as file:
                made = made.of(file, lambda: default_model(client))
                result = convert(file, rows, made.recipe, kind=made.kind, delimiter=made.delimiter)
            sent = client.files.upload(rows, filename=name)
            created = client.batches.create(
                sent.id,
                endpoint=result.endpoint,
                completion_window="24h" if window is None else window,
                metadata=dict(metadata) or None,
                priority=priority,
                webhook_url=webhook_url,
            )
    except InputError as exc:
        fail(str(exc), USAGE)
    console.show(created, output.batch_panel)
    if not console.json:
        note(f"penstock batch watch {created.id}\npenstock batch results {created.id} --follow -o out.jsonl")


@batch.command("status", epilog=EXIT_CODES_OF_MANY)
@BATCHES
@client_command
def status(console: Console, *, batch_ids: tuple[str, ...]) -> None:
    """Show batches as they are now.

    \b
    Examples:
      penstock batch status batch_0199...
      penstock batch status batch_0199... --json | jq .request_counts
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        each(batch_ids, lambda one: console.show(client.batches.get(one), output.batch_panel))


@batch.command("list", epilog=EXIT_CODES)
@limit_options
@client_command
def list_batches(console: Console, *, limit: int | None) -> None:
    """List batches, newest first.

    \b
    Examples:
      penstock batch list
      penstock batch list --all --json | jq -r 'select(.status == "in_progress") | .id'
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        console.show_all(client.batches.list(limit=limit), output.batches_table)


@batch.command("watch", epilog=EXIT_CODES)
@BATCH
@client_command
def watch(console: Console, *, batch_id: str) -> None:
    """Follow a batch to its end: a bar on a terminal, JSON lines elsewhere.

    \b
    Examples:
      penstock batch watch batch_0199...
      penstock batch watch batch_0199... --json | jq .data.request_counts

    Ctrl-C stops watching, not the batch. Exit code 1 if it did not complete, or some of its rows failed.
    """  # noqa: D301  # \b is click's mark
    from penstock.batch_models import Batch
    from penstock.cli.batch_screen import Screen

    with console.client() as client:
        try:
            with Screen(events=console.json) as screen:
                for event in client.batches.events(batch_id):
                    if console.json:
                        print_json({"event": event.type, "data": event.data})
                        continue
                    told = {"id": batch_id, "status": event.type, **event.data}
                    if not event.terminal:
                        told["progress"] = event.data
                    screen.progress(Batch.model_validate(told), 0)
        except KeyboardInterrupt:
            note(f"\nStopped watching; the batch continues.\n  resume: penstock batch watch {batch_id}")
            raise SystemExit(INTERRUPTED) from None
        ended = client.batches.get(batch_id)
    if not console.json:
        output.batch_panel(ended)
    if ended.status != "completed" or ended.request_counts.failed:
        raise SystemExit(JOB_NOT_OK)


def _act(name: str, help_text: str, said: str) -> None:
    """Add a command that does the same to each batch: the call of this name."""
    examples = f"\b\nExamples:\n  penstock batch {name} batch_0199..."

    @batch.command(name, epilog=EXIT_CODES_OF_MANY, help=f"{help_text}\n\n{examples}")
    @BATCHES
    @client_command
    def command(console: Console, *, batch_ids: tuple[str, ...]) -> None:
        def act(one: str) -> None:
            now = getattr(client.batches, name)(one)
            console.show(now, f"{now.id} {now.status if now.done else said}")

        with console.client() as client:
            each(batch_ids, act)


_act("cancel", "Cancel batches. The rows done by then stay in their files.", "is being cancelled")
_act(
    "pause", "Start no more rows of batches, until they are resumed. Their window still counts.", "is paused"
)
_act("resume", "Continue paused batches.", "is resumed")


@batch.command("retry", epilog=EXIT_CODES_OF_MANY)
@BATCHES
@client_command
def retry(console: Console, *, batch_ids: tuple[str, ...]) -> None:
    """Retry the failed rows of batches as new batches.

    \b
    Examples:
      penstock batch retry batch_0199...
      new=$(penstock batch retry batch_0199... --json | jq -r .id)

    The old batch stays as it is. It is retried once: a second call returns the same new batch.
    """  # noqa: D301  # \b is click's mark

    def act(one: str) -> None:
        new = client.batches.retry(one)
        console.show(new, f"the failed rows of {one} were retried as {new.id}")

    with console.client() as client:
        each(batch_ids, act)


for command in (run, results, verify):
    batch.add_command(command)
