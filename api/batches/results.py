"""Reading a batch's rows while it runs: what is committed, in an order that only ever grows at its end."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from api.batches.files import ERROR, OUTPUT, needed
from api.http.errors import ApiError, invalid
from api.services import Services
from jobs.batch_model import Batch
from storage.base import read_lines
from storage.parts import committed_keys

MOST_BYTES = 8 * 1024 * 1024
"""A page ends when it holds so many bytes; it has one row at least."""

_ALL = -1
_FILES = (OUTPUT, ERROR)
_MOST = 2**63 - 1


def _number(value: object, least: int = 0, most: int = _MOST) -> int:
    """Return a whole number of a cursor. Raises ValueError where it is none, or outside its bounds."""
    if not isinstance(value, int) or not least <= value <= most:
        raise ValueError(value)
    return value


@dataclass(slots=True)
class Position:
    """Where a reader is.

    Attributes:
        before: chunks before this one have been read whole.
        at: chunk to objects and lines of the next object that were read; objects -1: all.
        file: of a batch whose parts are gone: output (0) or error file (1), and the byte in it; None: it reads parts.
    """

    before: int = 0
    at: dict[int, tuple[int, int]] = field(default_factory=dict)
    file: tuple[int, int] | None = None

    def encode(self) -> str:
        """Return the cursor."""
        fields: dict[str, Any] = {"b": self.before, "a": {str(n): list(p) for n, p in self.at.items()}}
        if self.file is not None:
            fields = {"f": list(self.file)}
        return (
            base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode().rstrip("=")
        )

    @classmethod
    def decode(cls, text: str) -> Position:
        """Read a cursor.

        Raises:
            ApiError: 400, it is none.
        """
        try:
            fields = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if "f" in fields:
                which, at = fields["f"]
                return cls(file=(_number(which, most=len(_FILES)), _number(at)))
            at_chunks = {
                _number(int(n)): (_number(p[0], _ALL), _number(p[1])) for n, p in fields["a"].items()
            }
            return cls(_number(fields["b"]), at_chunks)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise invalid(f"after: not a cursor of this batch: {text[:64]!r}", "after") from None


@dataclass(slots=True)
class Page:
    """Some rows, where a reader goes on, and whether there is or may come more."""

    rows: list[bytes]
    position: Position
    incomplete: bool
    size: int = 0

    def add(self, line: bytes) -> None:
        """Add a row."""
        self.rows.append(line)
        self.size += len(line)


async def read_results(services: Services, batch: Batch, position: Position, limit: int) -> Page:
    """Read up to ``limit`` rows behind a position.

    Raises:
        ApiError: 410, the parts that the cursor counts in are gone, or a file that is read in their place. 400, the
            cursor is of another batch.
        StorageError: storage fails.
    """
    page = Page([], position, incomplete=not batch.status.terminal)
    if batch.status.terminal and not await services.batches.has_parts(batch.id):
        if position.file is None and (position.before or position.at):
            message = "the cursor is too old: the batch has ended long since; read its output and error files"
            raise ApiError(410, message, "cursor_expired", param="after")
        await _read_files(services, batch, page, limit)
        return page
    if position.file is not None:
        raise invalid("after: this cursor is of a batch that has ended", "after")
    opened, done = await services.batches.chunks(batch.id)
    for number in sorted({*opened, *done}):
        if number < position.before:
            continue
        objects, _ = position.at.get(number, (0, 0))
        if objects != _ALL:
            ledger = done[number] if number in done else opened[number].ledger
            whole = await _read_chunk(services, batch, number, ledger, page, limit)
            if whole and number in done:
                position.at[number] = (_ALL, 0)
            if not whole:
                page.incomplete = True
                break
    while position.at.get(position.before) == (_ALL, 0):
        del position.at[position.before]
        position.before += 1
    return page


async def _read_chunk(
    services: Services, batch: Batch, number: int, ledger: str, page: Page, limit: int
) -> bool:
    """Read what is committed of a chunk. Returns whether all of it was read."""
    position = page.position
    objects, skip = position.at.get(number, (0, 0))
    keys = await committed_keys(services.storage, batch.id, number, ledger)
    for place, (key, _, _) in enumerate(keys[objects:], objects):
        read = 0
        async for _, lines in read_lines(services.storage, key):
            for line in lines:
                read += 1
                if read <= skip:
                    continue
                if len(page.rows) >= limit or page.size >= MOST_BYTES:
                    position.at[number] = (place, read - 1)
                    return False
                page.add(line)
        skip = 0
        position.at[number] = (place + 1, 0)
    return True


async def _read_files(services: Services, batch: Batch, page: Page, limit: int) -> None:
    """Read from the output and the error file."""
    which, at = page.position.file or (0, 0)
    while which < len(_FILES):
        try:
            found = await needed(services.files, batch, _FILES[which])
        except ApiError:
            if not page.rows:
                raise
            page.position.file, page.incomplete = (which, at), True  # the next page says so
            return
        for file in found.values():
            if at > file.size:
                raise invalid("after: this cursor is not of this batch", "after")
            async for offset, lines in read_lines(services.storage, file.key, at):
                at = offset
                for line in lines:
                    if len(page.rows) >= limit or page.size >= MOST_BYTES:
                        page.position.file = (which, at)
                        page.incomplete = True
                        return
                    page.add(line)
                    at += len(line) + 1
        which, at = which + 1, 0
    page.position.file = (which, 0)
