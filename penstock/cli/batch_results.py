"""``penstock batch results`` and ``penstock batch verify``: the rows that came back, and whether all did."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click
from click import argument, option

from penstock.cli._exits import EXIT_CODES, JOB_NOT_OK, USAGE, fail, note
from penstock.cli._output import writing
from penstock.cli._parse import BATCH, output_file
from penstock.cli._partial import Partial
from penstock.cli._run import Console, client_command, print_json
from penstock.cli.batch_options import id_options

if TYPE_CHECKING:
    from penstock.batch_models import Verification
    from penstock.bulk.check import Verdict
    from penstock.client import Penstock


@click.command("results", epilog=EXIT_CODES)
@BATCH
@option(
    "-o",
    "--output",
    "target",
    type=output_file,
    metavar="FILE",
    help="Where to write the rows; default: stdout.",
)
@option(
    "--errors", type=output_file, metavar="FILE", help="Where to write failed rows; default: with the others."
)
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

    This also works while the batch runs. FILE appears as a whole at the end. Until then the rows are in FILE.part;
    if the command is stopped, they stay there, and the same command continues.
    """  # noqa: D301  # \b is click's mark
    to_file = target not in {None, "-"}
    with console.client() as client:
        if to_file:
            files = list(dict.fromkeys([str(target), errors or str(target)]))
            with Partial(files, batch_id, overwrite=overwrite) as partial:
                done, failed = _copy(client, batch_id, partial.files, follow=follow, partial=partial)
                partial.finish()
        else:
            with writing(None, overwrite=overwrite) as good, _errors(errors, overwrite, good) as bad:
                done, failed = _copy(client, batch_id, [good, bad], follow=follow)
        ended = client.batches.get(batch_id)
    if to_file or errors is not None:
        rest = "" if ended.done else f" so far; the batch is {ended.status}"
        note(f"{done:,} rows, {failed:,} of them failed{rest}")


def _errors(
    errors: str | None,
    overwrite: bool,  # noqa: FBT001 - one flag
    good: BinaryIO,
) -> AbstractContextManager[BinaryIO]:
    return writing(errors, overwrite=overwrite) if errors else nullcontext(good)


def _copy(
    client: Penstock, batch_id: str, files: list[BinaryIO], *, follow: bool, partial: Partial | None = None
) -> tuple[int, int]:
    """Write the rows into the first file, the failed ones into the last; return how many there are of both."""
    import json

    from penstock._core.batch_flows import rows
    from penstock.bulk.check import succeeded

    state = partial.state if partial else {}
    done, failed = state.get("rows", 0), state.get("failed", 0)
    for page in client.batches.result_pages(batch_id, after=state.get("cursor"), follow=follow):
        for row in rows(page):
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            ok = succeeded(row)
            files[0 if ok else -1].write(line + b"\n")
            done, failed = done + 1, failed + (not ok)
        if partial:
            partial.save(cursor=page.next_cursor, rows=done, failed=failed)
    return done, failed


@click.command("verify", epilog=EXIT_CODES)
@argument("names", metavar="BATCH | INPUT OUTPUT...", nargs=-1, required=True)
@option("--errors", multiple=True, metavar="FILE", help="A file of failed rows; may be repeated.")
@id_options
@client_command
def verify(
    console: Console,
    *,
    names: tuple[str, ...],
    errors: tuple[str, ...],
    kind: str | None,
    delimiter: str | None,
    id_field: str | None,
) -> None:
    """Check that every row was answered: none missing, none twice, total = completed + failed.

    With the id of a BATCH, the server checks its files. With files, the check runs here, without a server: INPUT is
    the file that was run. Repeat the options that decided its rows' ids.

    \b
    Examples:
      penstock batch verify batch_0199...
      penstock batch verify prompts.txt out.jsonl --errors out.errors.jsonl
      penstock batch verify papers.csv out.jsonl --errors out.errors.jsonl --id-field doi

    Exit code 1 if the check fails.
    """  # noqa: D301  # \b is click's mark
    if len(names) == 1:
        if errors or _is_there(names[0]):
            raise click.UsageError("name the OUTPUT too, or the id of a batch alone")
        with console.client() as client:
            found = client.batches.verify(names[0])
        console.show(found, "\n  ".join([_head(found), *found.examples]))
        raise SystemExit(0 if found.ok else JOB_NOT_OK)
    from penstock.bulk.problems import InputError

    try:
        verdict = _check(names[0], [*names[1:], *errors], kind, delimiter, id_field)
    except InputError as exc:
        fail(str(exc), USAGE)
    if console.json:
        print_json(verdict.as_dict())
    else:
        click.echo("\n".join(verdict_lines(verdict)))
    if not verdict.ok:
        raise SystemExit(JOB_NOT_OK)


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a file, or otherwise none
        return False


def _check(
    source: str, outputs: Iterable[str], kind: str | None, delimiter: str | None, id_field: str | None
) -> Verdict:
    from penstock.bulk.check import Check
    from penstock.bulk.convert import custom_ids
    from penstock.bulk.problems import InputError
    from penstock.bulk.rows import Recipe
    from penstock.bulk.source import opened

    if source == "-":
        raise InputError("the input is read twice: give a file")
    recipe = Recipe(id_field=id_field)
    check = Check()
    with opened(source) as file:
        check.expect(custom_ids(file, recipe, kind=kind, delimiter=delimiter))
    for name in outputs:
        if not Path(name).is_file():
            raise InputError(f"there is no file {name}")
        check.show_file(Path(name))
    with opened(source) as file:
        return check.end(custom_ids(file, recipe, kind=kind, delimiter=delimiter))


def verdict_lines(verdict: Verdict) -> list[str]:
    """Return a check's outcome in lines."""
    return [_head(verdict), *(f"  {kind}: {', '.join(names)}" for kind, names in verdict.named.items())]


def _head(found: Verdict | Verification) -> str:
    word = "ok" if found.ok else "FAILED"
    figures = ("completed", "failed", "duplicates", "missing", "unknown", "unreadable")
    counts = ", ".join(f"{getattr(found, name):,} {name}" for name in figures)
    return f"{word}: {found.total:,} rows, {counts}"
