"""What the commands about batches and files print and write."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from penstock.cli import _output as output
from penstock.cli._run import REFUSED, Console, fail, note

if TYPE_CHECKING:
    from penstock.batch_models import Batch, File
    from penstock.client import Penstock


def show(console: Console, batch: Batch) -> None:
    """Print a batch, as JSON or as a panel."""
    if console.json:
        output.as_json(batch)
    else:
        panel(batch)


def panel(batch: Batch) -> None:
    """Print a batch as a panel of its fields."""
    from rich.console import Console as RichConsole
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _fields(batch):
        grid.add_row(name, Text(output.printable(value)))
    width = None if sys.stdout.isatty() else 200
    RichConsole(highlight=False, width=width).print(
        Panel(grid, title=batch.id, title_align="left", expand=False)
    )


def _fields(batch: Batch) -> list[tuple[str, str]]:
    from penstock.cli.batch_screen import describe

    counts, told = batch.request_counts, batch.progress
    paused = f"paused: {batch.pause_reason or 'by request'}" if batch.paused else ""
    rates = (
        (told.rows_per_s, told.tokens_per_s, told.eta_s) if told and not batch.done else (None, None, None)
    )
    fields = [
        ("status", batch.status),
        ("paused", paused.removeprefix("paused: ")),
        ("rows", describe(counts.done, counts.total, counts.failed, *rates)),
        ("model", batch.model or ""),
        ("endpoint", batch.endpoint),
        ("priority", batch.priority or ""),
        ("window", batch.completion_window),
    ]
    if batch.usage is not None:
        fields.append(("tokens", f"{batch.usage.input_tokens:,} + {batch.usage.output_tokens:,}"))
    if batch.created_at is not None and batch.ended_at is not None:
        fields.append(("took", f"{batch.ended_at - batch.created_at:,.0f} s"))
    fields += [
        ("input", batch.input_file_id or ""),
        ("output", batch.output_file_id or ""),
        ("failed rows", batch.error_file_id or ""),
        ("retry of", batch.retry_of or ""),
        ("retried as", batch.retried_as or ""),
    ]
    fields += [(f"metadata {key}", value) for key, value in (batch.metadata or {}).items()]
    for error in (batch.errors.data if batch.errors else ())[:10]:
        where = f"line {error.line}: " if error.line is not None else ""
        fields.append(("error", f"{where}{error.code}: {error.message}"))
    return [(name, value) for name, value in fields if value]


def table(batches: Iterable[Batch]) -> None:
    """Print batches as a table, a line each."""

    def row(batch: Batch) -> tuple[str, ...]:
        counts = batch.request_counts
        state = "paused" if batch.paused and not batch.done else batch.status
        return (
            batch.id,
            state,
            f"{counts.done:,} of {counts.total:,}",
            f"{counts.failed:,}",
            batch.model or "",
        )

    output._table(("id", "status", "rows", "failed", "model"), batches, row, "no batches", cut=("model",))  # noqa: SLF001


def files_table(files: Iterable[File]) -> None:
    """Print files as a table, a line each."""

    def row(file: File) -> tuple[str, ...]:
        return file.id, file.purpose, f"{file.bytes:,}", output._ago(file.created_at), file.filename  # noqa: SLF001

    output._table(("id", "purpose", "bytes", "created", "name"), files, row, "no files", cut=("name",))  # noqa: SLF001


@contextmanager
def writing(target: str | None) -> Iterator[BinaryIO]:
    """Open what is written to: stdout, or a file that is there whole afterwards or not at all."""
    if target is None or target == "-":
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    path = Path(target)
    draft = path.with_name(path.name + ".part")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def first_model(client: Penstock) -> str:
    """Return the first model that is served; say so where there are several."""
    models = client.models()
    if not models:
        fail("the server serves no model now; is a worker running?", REFUSED)
    if len(models) > 1:
        note(f"using the first of {len(models)} models: {models[0].id} (choose with --model)")
    return models[0].id
