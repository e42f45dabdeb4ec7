"""``penstock batch``: the commands about batches. ``run`` has a module of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.cli import _batch_output as output
from penstock.cli._output import as_json
from penstock.cli._parse import pair
from penstock.cli._run import (
    EXIT_CODES,
    INTERRUPTED,
    JOB_NOT_OK,
    USAGE,
    Console,
    client_command,
    fail,
    note,
)
from penstock.cli.batch_options import making, row_options
from penstock.cli.batch_results import results
from penstock.cli.batch_run import run
from penstock.cli.batch_verify import verify

if TYPE_CHECKING:
    from penstock.batch_models import Batch


def _batch_id(text: str) -> str:
    if not text.strip():
        msg = "the batch id is empty"
        raise click.BadParameter(msg)
    return text


_IDS = click.argument("batch_ids", metavar="BATCH...", type=_batch_id, nargs=-1, required=True)
_ID = click.argument("batch_id", metavar="BATCH", type=_batch_id)


@click.group("batch")
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
@click.argument("source", metavar="INPUT")
@click.option(
    "--window", default="24h", show_default=True, metavar="TIME", help="Give up what is not done by then."
)
@click.option(
    "--priority", type=click.Choice(["high", "normal", "low", "bulk"]), help="Its lane; default: bulk."
)
@click.option(
    "--metadata", type=pair, multiple=True, metavar="K=V", help="Kept with the batch; may be repeated."
)
@row_options
@client_command
def submit(
    console: Console,
    *,
    source: str,
    window: str,
    priority: str | None,
    metadata: tuple[tuple[str, str], ...],
    **options: Any,
) -> None:
    """Send a file as a batch and return at once. INPUT and its options are those of: penstock batch run.

    \b
    Examples:
      penstock batch submit prompts.txt --model my-model
      id=$(penstock batch submit reviews.csv --template "Summarise: {text}" --json | jq -r .id)
      penstock batch results $id --follow -o out.jsonl
    """  # noqa: D301  # \b is click's mark
    import dataclasses

    from penstock.bulk.convert import convert
    from penstock.bulk.problems import InputError
    from penstock.bulk.source import detect, opened

    made = making(**options)
    try:
        with tempfile.TemporaryDirectory(prefix="penstock-") as folder, console.client() as client:
            rows = Path(folder) / "input.jsonl"
            with opened(source) as file:
                kind = made.kind or detect(file)
                recipe = made.recipe
                if recipe.model is None and kind != "openai":
                    recipe = dataclasses.replace(recipe, model=output.first_model(client))
                result = convert(file, rows, recipe, kind=kind, delimiter=made.delimiter)
            sent = client.files.upload(
                rows, filename="input.jsonl" if source == "-" else f"{Path(source).stem}.jsonl"
            )
            created = client.batches.create(
                sent.id,
                endpoint=result.endpoint,
                completion_window=window,
                metadata=dict(metadata) or None,
                priority=priority,  # type: ignore[arg-type]  # a Choice
            )
    except InputError as exc:
        fail(str(exc), USAGE)
    if console.json:
        as_json(created)
    else:
        output.panel(created)
        note(f"penstock batch watch {created.id}\npenstock batch results {created.id} --follow -o out.jsonl")


@batch.command("status", epilog=EXIT_CODES)
@_IDS
@client_command
def status(console: Console, *, batch_ids: tuple[str, ...]) -> None:
    """Show batches as they are now.

    \b
    Examples:
      penstock batch status batch_0199...
      penstock batch status batch_0199... --json | jq .request_counts
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        for one in batch_ids:
            output.show(console, client.batches.get(one))


@batch.command("list", epilog=EXIT_CODES)
@click.option(
    "-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@click.option("--all", "everything", is_flag=True, help="All of them, whatever --limit says.")
@client_command
def list_batches(console: Console, *, limit: int, everything: bool) -> None:
    """List batches, newest first.

    \b
    Examples:
      penstock batch list
      penstock batch list --all --json | jq -r 'select(.status == "in_progress") | .id'
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        found = client.batches.list(limit=None if everything else limit)
        if not console.json:
            output.table(found)
            return
        for one in found:
            as_json(one)


@batch.command("watch", epilog=EXIT_CODES)
@_ID
@client_command
def watch(console: Console, *, batch_id: str) -> None:
    """Follow a batch to its end: a bar on a terminal, JSON lines elsewhere.

    \b
    Examples:
      penstock batch watch batch_0199...
      penstock batch watch batch_0199... --json | jq .data.request_counts

    Ctrl-C stops watching, not the batch. Exit code 1 where it did not complete, or rows of it failed.
    """  # noqa: D301  # \b is click's mark
    from penstock.batch_models import Batch
    from penstock.cli.batch_screen import Screen

    with console.client() as client:
        try:
            if console.json:
                for event in client.batches.events(batch_id):
                    as_json({"event": event.type, "data": event.data})
            else:
                with Screen(events=False) as screen:
                    for event in client.batches.events(batch_id):
                        told = (
                            event.data
                            if event.terminal
                            else {"id": batch_id, "progress": event.data, **event.data}
                        )
                        screen.progress(
                            Batch.model_validate({"id": batch_id, "status": event.type, **told}), 0
                        )
        except KeyboardInterrupt:
            note(f"\nStopped watching; the batch goes on.\n  again: penstock batch watch {batch_id}")
            raise SystemExit(INTERRUPTED) from None
        ended = client.batches.get(batch_id)
    if not console.json:
        output.show(console, ended)
    if ended.status != "completed" or ended.request_counts.failed:
        raise SystemExit(JOB_NOT_OK)


def _act(name: str, help_text: str, examples: str, told: str) -> click.Command:
    @batch.command(name, epilog=EXIT_CODES, help=f"{help_text}\n\n\b\nExamples:\n{examples}")
    @_IDS
    @client_command
    def command(console: Console, *, batch_ids: tuple[str, ...]) -> None:
        with console.client() as client:
            act = {
                "cancel": client.batches.cancel,
                "pause": client.batches.pause,
                "resume": client.batches.resume,
            }
            for one in batch_ids:
                now: Batch = act[name](one)
                if console.json:
                    as_json(now)
                else:
                    click.echo(f"{now.id} {told if not now.done else now.status}")

    return command


_act(
    "cancel",
    "End batches; what was done by then stays in their files.",
    "  penstock batch cancel batch_0199...",
    "is being cancelled",
)
_act(
    "pause",
    "Let batches begin nothing new, until they are resumed. Their window goes on.",
    "  penstock batch pause batch_0199...",
    "is paused",
)
_act("resume", "Let paused batches go on.", "  penstock batch resume batch_0199...", "goes on")


@batch.command("retry", epilog=EXIT_CODES)
@_IDS
@client_command
def retry(console: Console, *, batch_ids: tuple[str, ...]) -> None:
    """Run the failed rows of batches again, as batches of their own.

    \b
    Examples:
      penstock batch retry batch_0199...
      new=$(penstock batch retry batch_0199... --json | jq -r .id)

    The old batch stays as it is. It is run again once: asked twice, you get the same new batch.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        for one in batch_ids:
            new = client.batches.retry(one)
            if console.json:
                as_json(new)
            else:
                click.echo(f"the failed rows of {one} run again as {new.id}")


for command in (run, results, verify):
    batch.add_command(command)
