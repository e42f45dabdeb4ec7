"""An input as records: one for each line, CSV row or Parquet row, with the fields that a template may name."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.bulk.problems import InputError, Problem
from penstock.bulk.source import Source

PROMPT = "prompt"
TEXT_NAMES = (PROMPT, "text", "line")
"""The names under which a template knows a plain prompt."""

_PARQUET_ROWS = 1000
_MAX_FIELD_BYTES = 64 * 1024 * 1024
_NO_PYARROW = "reading Parquet needs pyarrow: pip install 'penstock[parquet]'"


@dataclass(frozen=True, slots=True)
class Record:
    """One record. ``line`` is where it begins, from 1; ``fields`` are its values by name."""

    line: int
    fields: Mapping[str, Any]


def records(source: Source, kind: str, delimiter: str | None = None) -> Iterator[Record | Problem]:
    """Read an input. A record that cannot be read is a :class:`Problem` in its place. Empty lines are skipped.

    Args:
        source: open at its beginning.
        kind: one of :data:`penstock.bulk.source.FORMATS`.
        delimiter: between the values of CSV; None is a comma (for ``tsv`` a tab).

    Raises:
        InputError: the input as a whole cannot be read.
    """
    if kind == "text":
        return _text(source)
    if kind in {"jsonl", "openai"}:
        return _jsonl(source)
    if kind == "parquet":
        return _parquet(source)
    return _csv(source, delimiter or ("\t" if kind == "tsv" else ","))


def _lines(source: Source) -> Iterator[tuple[int, str | Problem]]:
    for number, raw in enumerate(source.stream, 1):
        content = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        try:
            yield number, content.decode()
        except UnicodeDecodeError as exc:
            column = len(content[: exc.start].decode()) + 1
            what = "this is not UTF-8; convert the file first, for example with iconv"
            yield number, Problem(number, what, column=column)


def _text(source: Source) -> Iterator[Record | Problem]:
    for number, line in _lines(source):
        if isinstance(line, Problem):
            yield line
        elif line.strip():
            yield Record(number, dict.fromkeys(TEXT_NAMES, line.rstrip("\r\n")))


def _jsonl(source: Source) -> Iterator[Record | Problem]:
    for number, line in _lines(source):
        if isinstance(line, Problem):
            yield line
            continue
        if not line.strip():
            continue
        if (cause := _layout(line, number)) is not None:
            yield Problem(number, cause)
            continue
        try:
            value = json.loads(line, parse_constant=_refuse)
        except json.JSONDecodeError as exc:
            yield Problem(number, f"this is not JSON: {exc.msg}", column=exc.colno)
        except (ValueError, RecursionError) as exc:
            yield Problem(number, f"this is not JSON: {exc}")
        else:
            if isinstance(value, str):
                yield Record(number, dict.fromkeys(TEXT_NAMES, value))
            elif isinstance(value, dict):
                yield Record(number, value)
            else:
                yield Problem(number, f"expected a JSON object or string, not {type(value).__name__}")


def _layout(line: str, number: int) -> str | None:
    """Return what is wrong with a line if the file is JSON, but not a value on each line."""
    if number == 1 and line.lstrip().startswith("["):
        return "the file is a JSON array; write a value on each line: jq -c '.[]' FILE"
    if line.strip() == "{":
        return "a JSON object must be on one line: jq -c . FILE"
    return None


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")


def _csv(source: Source, delimiter: str) -> Iterator[Record | Problem]:
    csv.field_size_limit(_MAX_FIELD_BYTES)

    def decoded() -> Iterator[str]:
        for _, line in _lines(source):
            if isinstance(line, Problem):
                raise InputError(f"{source.name} cannot be read as CSV", (line,), 1)
            yield line

    reader = csv.reader(decoded(), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:  # a quote that does not close leaves open where the next row begins
            raise InputError(f"{source.name} cannot be read as CSV", (Problem(line, str(exc)),), 1) from exc
        if not values:
            continue
        if names is None:
            names = _header(source, values, line)
        elif len(values) != len(names):
            yield Problem(line, f"{len(values)} values, but the header has {len(names)} columns")
        else:
            yield Record(line, dict(zip(names, values, strict=True)))


def _header(source: Source, values: list[str], line: int) -> list[str]:
    names = [value.strip() for value in values]
    for place, name in enumerate(names, 1):
        if not name:
            problem, what = Problem(line, "no name"), f"the header's column {place} has no name"
        elif name in names[: place - 1]:
            problem, what = Problem(line, "twice", name), f"two columns are named {name!r}"
        else:
            continue
        raise InputError(f"{source.name}: {what}", (problem,), 1)
    return names


def _parquet(source: Source) -> Iterator[Record | Problem]:
    try:
        import pyarrow as pa  # optional, and slow to import
        import pyarrow.parquet as pq
    except ImportError as exc:
        raise InputError(_NO_PYARROW) from exc
    if source.path is None or source.packed:
        raise InputError("Parquet is read from a file, not from standard input and not from gzip")
    try:
        with pq.ParquetFile(source.path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(number, row)
    except (pa.ArrowException, OSError) as exc:
        raise InputError(f"{source.name} cannot be read as Parquet: {exc}") from exc
