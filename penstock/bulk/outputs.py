"""Writing the output and the error file from the rows that came back, and checking them on the way."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import BinaryIO

from penstock.bulk.check import Check, Verdict, rows_of, succeeded
from penstock.bulk.workdir import Workdir

_REPORT_EVERY = 1000


def input_ids(workdir: Workdir) -> Iterable[tuple[int, str]]:
    """Give line and id of every row that was sent."""
    for line, row in rows_of(workdir.input):
        yield line, row["custom_id"]


def write(
    workdir: Workdir,
    output: Path,
    errors: Path,
    *,
    ordered: bool,
    report: Callable[[int], None] = lambda _rows: None,
) -> Verdict:
    """Write both files and return what the check found. If no row failed, there is no error file.

    Args:
        workdir: of a run whose rows have all come back.
        output: for the successful rows.
        errors: for the others; the same path puts both into one file.
        ordered: in the input's order; otherwise in the order in which they finished.
        report: takes the number of rows so far.

    Raises:
        OSError: one cannot be written; then neither exists.
    """
    check = Check()
    check.expect(input_ids(workdir))
    with ExitStack() as stack:
        drafts = {path: _Draft(path, stack) for path in dict.fromkeys((output, errors))}
        found = _in_order(workdir, check) if ordered else _as_finished(workdir, check)
        for done, (line, good) in enumerate(found, 1):
            drafts[output if good else errors].add(line)
            if done % _REPORT_EVERY == 0:
                report(done)
        verdict = check.end(input_ids(workdir))
        for path, draft in drafts.items():
            draft.finish(keep=path == output or draft.rows > 0)
    return verdict


class _Draft:
    """A file that is written beside its final place."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.rows = 0
        self._draft = path.with_name(path.name + ".part")
        self._file: BinaryIO = stack.enter_context(self._draft.open("wb"))
        stack.callback(self._draft.unlink, missing_ok=True)

    def add(self, line: bytes) -> None:
        self._file.write(line)
        self.rows += 1

    def finish(self, *, keep: bool) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        if keep:
            self._draft.replace(self.path)


def _as_finished(workdir: Workdir, check: Check) -> Iterator[tuple[bytes, bool]]:
    """Give each row that counts, and whether it succeeded."""
    with workdir.rows.open("rb") as rows:
        for number, line in enumerate(rows, 1):
            row = json.loads(line)
            if check.show(row, f"line {number} of the received rows") is not None:
                yield line, succeeded(row)


def _in_order(workdir: Workdir, check: Check) -> Iterator[tuple[bytes, bool]]:
    """As :func:`_as_finished`, by a table of the rows' positions: a row needs some bytes of disk, none of memory."""
    with closing(sqlite3.connect("", isolation_level=None)) as db, workdir.rows.open("rb") as rows:
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("CREATE TABLE places (n INTEGER PRIMARY KEY, at INTEGER, good INTEGER)")
        db.execute("BEGIN")
        at = 0
        for number, line in enumerate(rows, 1):
            row = json.loads(line)
            place = check.show(row, f"line {number} of the received rows")
            if place is not None:
                db.execute("INSERT INTO places VALUES (?, ?, ?)", (place, at, succeeded(row)))
            at += len(line)
        for position, good in db.execute("SELECT at, good FROM places ORDER BY n"):
            rows.seek(position)
            yield rows.readline(), bool(good)
