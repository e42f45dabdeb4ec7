"""Opening an input, a path or standard input, with gzip or without, and detecting its format."""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from penstock.bulk.problems import InputError

FORMATS = ("text", "jsonl", "csv", "tsv", "parquet", "openai")
"""The formats of an input. ``openai``: JSON Lines of OpenAI batch rows."""

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_BUFFER_BYTES = 1 << 20
_LOOK_BYTES = 64 * 1024
_SUFFIXES = {
    ".txt": "text",
    ".prompts": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}


@dataclass(frozen=True, slots=True)
class Source:
    """An open input.

    Attributes:
        name: for messages.
        stream: its content, unpacked.
        path: None for standard input.
        packed: it is compressed with gzip.
        size: bytes of the file; None if not known.
        raw: the content before unpacking; its position says how much was read.
    """

    name: str
    stream: BinaryIO
    path: Path | None
    packed: bool
    size: int | None
    raw: BinaryIO

    def peek(self) -> bytes:
        """Return the first bytes of the content without taking them."""
        return cast("io.BufferedReader", self.stream).peek(_LOOK_BYTES)


@contextmanager
def opened(name: str) -> Iterator[Source]:
    """Open an input; ``-`` is standard input.

    Raises:
        InputError: it cannot be opened, or read.
    """
    path = None if name == "-" else Path(name)
    try:
        file: BinaryIO = sys.stdin.buffer if path is None else path.open("rb")
    except OSError as exc:
        raise InputError(f"cannot read {name}: {exc.strerror}") from exc
    try:
        if path is not None and path.is_dir():
            raise InputError(f"{name} is a folder")
        raw = io.BufferedReader(cast("io.RawIOBase", file), _BUFFER_BYTES)
        packed = raw.peek(2)[:2] == _GZIP
        stream = (
            io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=raw)), _BUFFER_BYTES)
            if packed
            else raw
        )
        size = path.stat().st_size if path is not None and path.is_file() else None
        yield Source(
            "standard input" if path is None else name, cast("BinaryIO", stream), path, packed, size, raw
        )
    except (gzip.BadGzipFile, EOFError) as exc:
        raise InputError(f"{name} is damaged gzip: {exc}") from exc
    except OSError as exc:
        raise InputError(f"cannot read {name}: {exc.strerror or exc}") from exc
    finally:
        if path is not None:
            file.close()


def detect(source: Source) -> str:
    """Return an input's format: by its content if that is clear, or else by its name; otherwise plain prompts."""
    head = source.peek()
    if head.startswith(_PARQUET):
        return "parquet"
    suffixes = [] if source.path is None else [one.lower() for one in source.path.suffixes]
    if suffixes and suffixes[-1] in {".gz", ".gzip"}:
        suffixes.pop()
    named = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if named is not None and named != "jsonl":
        return named or "text"
    return _json_kind(head) or named or "text"


def _json_kind(head: bytes) -> str | None:
    """Return the kind of the first line: an OpenAI batch row, any JSON object or string, or no JSON."""
    first = next((line for line in head.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()), b"")
    if first[:1] not in {b"{", b'"'}:
        return None
    try:
        value = json.loads(first)
    except ValueError:
        # The line is longer than the bytes peeked at, or damaged: look for the words of a batch row.
        return "openai" if b'"custom_id"' in first and b'"body"' in first else None
    return "openai" if isinstance(value, dict) and {"custom_id", "body"} <= value.keys() else "jsonl"
