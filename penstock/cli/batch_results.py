"""``penstock batch results``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, BinaryIO

import click
from click import option

from penstock.cli._exits import EXIT_CODES, note
from penstock.cli._output import writing
from penstock.cli._parse import BATCH
from penstock.cli._run import Console, client_command

if TYPE_CHECKING:
    from penstock.client import Penstock


@click.command("results", epilog=EXIT_CODES)
@BATCH
@option("-o", "--output", "target", metavar="FILE", help="Where to write the rows; default: stdout.")
@option("--errors", metavar="FILE", help="Where to write failed rows; default: with the others.")
@option("--follow", is_flag=True, help="Wait for the rows that are not done yet.")
@option("--overwrite", is_flag=True, help="Replace existing files.")
@client_command
def results(
    console: Console, *, batch_id: str, target: str | None, errors: str | None, follow: bool, overwrite: bool
) -> None:
    """Print the finished rows of a batch as JSON Lines, in the order in which they finished.

    \b
    Examples:
      penstock batch results batch_0199... | jq -r .custom_id
      penstock batch results batch_0199... --follow -o out.jsonl --errors failed.jsonl

    This also works while the batch runs. A file appears as a whole at the end, or not at all.
    """  # noqa: D301  # \b is click's mark
    with console.client() as client:
        with (
            writing(target, overwrite=overwrite) as good,
            writing(errors, overwrite=overwrite) if errors else nullcontext(good) as bad,
        ):
            done, failed = _copy(client, batch_id, good, bad, follow=follow)
        ended = client.batches.get(batch_id)
    if target is not None or errors is not None:
        rest = "" if ended.done else f" so far; the batch is {ended.status}"
        note(f"{done:,} rows, {failed:,} of them failed{rest}")


def _copy(client: Penstock, batch_id: str, good: BinaryIO, bad: BinaryIO, *, follow: bool) -> tuple[int, int]:
    import json

    from penstock.bulk.check import succeeded

    done = failed = 0
    for row in client.batches.results(batch_id, follow=follow):
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        ok = succeeded(row)
        (good if ok else bad).write(line)
        done, failed = done + 1, failed + (not ok)
    return done, failed
