"""Converting an input into the rows of a batch: checked as a whole before anything is sent, in constant memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from penstock.bulk.ledger import Ledger
from penstock.bulk.problems import SHOWN, InputError, Problem
from penstock.bulk.records import Record, records
from penstock.bulk.rows import Recipe, RowMaker
from penstock.bulk.source import Source, detect

Report = Callable[[int, int], None]
"""Takes rows so far and bytes of the input so far."""

_REPORT_EVERY = 1000


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted input: its format, the number of its rows, and the endpoint and model that all of them have."""

    kind: str
    rows: int
    endpoint: str
    model: str


def convert(
    source: Source,
    target: Path,
    recipe: Recipe,
    *,
    kind: str | None = None,
    delimiter: str | None = None,
    report: Report = lambda _rows, _bytes: None,
) -> Converted:
    """Write an input's rows to ``target``. Afterwards the file is complete and on disk, or it does not exist.

    Raises:
        InputError: a row cannot be used; the first problems are named with line and field.
        OSError: the target cannot be written.
    """
    kind = kind or detect(source)
    maker = RowMaker(recipe, openai=kind == "openai")
    draft = target.with_suffix(target.suffix + ".part")
    try:
        with Ledger() as ledger, draft.open("wb") as out:
            rows = _write(source, out, records(source, kind, delimiter), maker, ledger, report)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    report(rows, source.size or 0)
    return Converted(kind, rows, maker.endpoint, maker.model or "")


def _write(
    source: Source,
    out: BinaryIO,
    found: Iterable[Record | Problem],
    maker: RowMaker,
    ledger: Ledger,
    report: Report,
) -> int:
    """Write rows until the end or the first problem; after that, only look for further problems."""
    problems: list[Problem] = []
    rows = count = 0
    for record in found:
        made = record if isinstance(record, Problem) else _row(record, maker, ledger)
        if isinstance(made, Problem):
            count += 1
            problems += [made] if len(problems) < SHOWN else []
        elif not count:
            rows += 1
            out.write(made)
        if (rows + count) % _REPORT_EVERY == 0:
            report(rows, source.raw.tell() if source.size is not None else 0)
    if count:
        what = "a row that cannot be used" if count == 1 else f"{count} rows that cannot be used"
        raise InputError(f"{source.name} has {what}; nothing was sent:", tuple(problems), count)
    if not rows:
        raise InputError(f"{source.name} has no rows")
    return rows


def _row(record: Record, maker: RowMaker, ledger: Ledger) -> bytes | Problem:
    custom_id = maker.custom_id(record)
    if isinstance(custom_id, Problem):
        return custom_id
    before = ledger.add(custom_id, record.line) if maker.named else None
    if before is not None:
        return Problem(record.line, f"the id {custom_id!r} is already used on line {before}")
    return maker.row(record, custom_id)


def custom_ids(
    source: Source, recipe: Recipe, *, kind: str | None = None, delimiter: str | None = None
) -> Iterator[tuple[int, str]]:
    """Give line and id of each row that :func:`convert` makes of an input.

    Raises:
        InputError: a row has none, or cannot be read.
    """
    kind = kind or detect(source)
    maker = RowMaker(recipe, openai=kind == "openai")
    for record in records(source, kind, delimiter):
        found = record if isinstance(record, Problem) else maker.custom_id(record)
        if isinstance(found, Problem):
            raise InputError(f"{source.name} cannot be used:", (found,), 1)
        assert not isinstance(record, Problem)  # noqa: S101 - for the type checker
        yield record.line, found
