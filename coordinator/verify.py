"""Proves that each row of the input has exactly one line in the output or the error file. It reads the files alone."""

from __future__ import annotations

import asyncio
from typing import Any

from broker.files import FileRole
from coordinator.context import Context
from coordinator.digests import Digests, same_id, tag_of
from jobs.batch_model import Batch
from jobs.batch_rows import custom_id_of
from jobs.batches import BatchStatus
from storage.base import read_lines

_INPUT, _OUTPUT, _ERROR = range(3)
_ROLES = (FileRole.INPUT, FileRole.OUTPUT, FileRole.ERROR)
_NAMES = ("input", "output", "errors")
_MOST_EXAMPLES = 10


async def verify(context: Context, batch: Batch) -> dict[str, Any]:
    """Compare the files of an ended batch.

    Returns:
        The verification object of the HTTP API.

    Raises:
        FileGoneError: a file was deleted or has expired.
        StorageError: a file cannot be read.
    """
    digests, found = Digests(), _Findings()
    try:
        counted = [0, 0, 0]
        if batch.counts.total:
            files = await context.files.of_batch(batch, *_ROLES)
            for source, role in enumerate(_ROLES):
                if role in files:
                    counted[source] = await _read(context, files[role].key, source, digests, found)
        for records in digests.partitions():
            found.look(records)
            await asyncio.sleep(0)  # a partition of large files takes long; let other tasks run
    finally:
        digests.close()
    total, completed, failed = counted
    told = batch.counts
    ok = not (found.duplicates or found.missing or found.unknown or found.unreadable) and (
        (total, completed, failed) == (told.total, told.completed, told.failed)
    )
    return {
        "id": batch.id,
        "object": "batch.verification",
        "ok": ok and total == completed + failed and batch.status is not BatchStatus.FAILED,
        "total": total,
        "completed": completed,
        "failed": failed,
        "duplicates": found.duplicates,
        "missing": found.missing,
        "unknown": found.unknown,
        "unreadable": found.unreadable,
        "examples": found.examples,
    }


async def _read(context: Context, key: str, source: int, digests: Digests, found: _Findings) -> int:
    """Add a file's ids; return their number."""
    rows = number = 0
    try:
        async for _, lines in read_lines(context.storage, key):
            for line in lines:
                number += 1
                if line and not line.isspace():
                    try:
                        digests.add(custom_id_of(line), number << 2 | source)
                        rows += 1
                    except (ValueError, RecursionError):
                        found.cannot_read(number << 2 | source)
    except ValueError:  # the line is too long for memory; the lines after it are not read
        found.cannot_read(number + 1 << 2 | source)
    return rows


class _Findings:
    def __init__(self) -> None:
        self.duplicates = self.missing = self.unknown = self.unreadable = 0
        self.examples: list[str] = []

    def cannot_read(self, tag: int) -> None:
        """Count a line that is not JSON, or has no ``custom_id``."""
        self.unreadable += 1
        self._example("unreadable", tag)

    def look(self, records: list[bytes]) -> None:
        """Judge a partition's sorted records."""
        start = 0
        while start < len(records):
            end = start + 1
            while end < len(records) and same_id(records[start], records[end]):
                end += 1
            self._judge([tag_of(record) for record in records[start:end]])
            start = end

    def _judge(self, tags: list[int]) -> None:
        """Judge all lines of one ``custom_id``."""
        inputs = [tag for tag in tags if tag & 3 == _INPUT]
        answers = [tag for tag in tags if tag & 3 != _INPUT]
        if inputs and not answers:
            self.missing += 1
            self._example("missing", inputs[0])
        elif answers and not inputs:
            self.unknown += len(answers)
            self._example("unknown", answers[0])
        if len(answers) > max(1, len(inputs)):
            self.duplicates += len(answers) - 1
            self._example("duplicate", answers[-1])

    def _example(self, what: str, tag: int) -> None:
        if len(self.examples) < _MOST_EXAMPLES:
            self.examples.append(f"{what}: line {tag >> 2} of {_NAMES[tag & 3]}")
