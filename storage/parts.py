"""A chunk's parts in storage: the committed ones, and the rows in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from jobs.batch_keys import chunk_folder, read_part_key
from jobs.batch_model import Counts
from jobs.batches import form_ledger, parse_ledger
from storage.base import Storage, read_lines


@dataclass(frozen=True, slots=True)
class Recovered:
    """The rows of a chunk that earlier attempts wrote.

    Attributes:
        ledger: the parts that count from now on.
        ids: the ``custom_id`` of every row in them.
        new: counts of the parts that were not in the ledger.
    """

    ledger: str
    ids: frozenset[str]
    new: Counts


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
"""Redis adds them up, in 64 bits."""


class _Details(msgspec.Struct):
    cached_tokens: _Tokens | None = None
    reasoning_tokens: _Tokens | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens | None = None
    input_tokens: _Tokens = 0
    output_tokens: _Tokens = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class _Response(msgspec.Struct):
    body: msgspec.Raw


class _Line(msgspec.Struct):
    custom_id: str
    response: _Response | None = None


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def usage_of(body: bytes | msgspec.Raw) -> Counts:
    """Return a response's usage as counts without rows; all zero if it has none."""
    try:
        usage = _decode_body(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Counts()
    if usage is None:
        return Counts()
    read = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    wrote = usage.completion_tokens_details or usage.output_tokens_details or _Details()
    return Counts(
        input_tokens=usage.prompt_tokens or usage.input_tokens,
        output_tokens=usage.completion_tokens or usage.output_tokens,
        cached_tokens=read.cached_tokens or 0,
        reasoning_tokens=wrote.reasoning_tokens or 0,
    )


def add(counts: Iterable[Counts]) -> Counts:
    """Add counts up."""
    rows = [
        (c.completed, c.failed, c.input_tokens, c.output_tokens, c.cached_tokens, c.reasoning_tokens)
        for c in counts
    ]
    sums = [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * 6
    return Counts(0, *sums)


async def committed_keys(storage: Storage, batch: str, chunk: int, ledger: str) -> list[tuple[str, str, int]]:
    """Return the committed parts of a chunk in the order of their commits: (key, kind, size)."""
    last = dict(parse_ledger(ledger))
    found = []
    for info in await storage.list(chunk_folder(batch, chunk)):
        read = read_part_key(info.key)
        if read is not None and read[1] <= last.get(read[0], 0):
            found.append((read[:2], info.key, read[2], info.size))
    return [(key, kind, size) for _, key, kind, size in sorted(found)]


async def recover(storage: Storage, batch: str, chunk: int, ledger: str) -> Recovered:
    """Read the parts that earlier attempts wrote of a chunk: those in the ledger, and complete ones that are not yet in it.

    A part is one object, written before it is counted, so a crash between the two leaves a whole part that is not in the
    ledger. Such parts count if they are the last writer's: the rows of an earlier writer's late parts were run again. Parts
    of the last writer after the first missing number never count. (Earlier versions wrote a part as two objects, one of each
    kind; such parts are read too.)
    """
    there: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for info in await storage.list(chunk_folder(batch, chunk)):
        read = read_part_key(info.key)
        if read is not None:
            there.setdefault(read[:2], []).append((info.key, read[2]))
    ids: set[str] = set()
    new: list[Counts] = []
    known = parse_ledger(ledger)
    entries: list[tuple[int, int]] = []
    for place, (writer, last) in enumerate(known, 1):
        number = 1
        while number <= last or (place == len(known) and (writer, number) in there):
            for key, kind in there.get((writer, number), []):
                for custom_id, counts in await _rows(storage, key, kind):
                    ids.add(custom_id)
                    if number > last:
                        new.append(counts)
            number += 1
        entries.append((writer, number - 1))
    return Recovered(form_ledger(entries), frozenset(ids), add(new))


async def _rows(storage: Storage, key: str, kind: str) -> list[tuple[str, Counts]]:
    found = []
    async for _, lines in read_lines(storage, key):
        for line in lines:
            row = _decode_line(line)
            usage = usage_of(row.response.body) if row.response is not None else Counts()
            ok = int(kind == "ok")
            found.append((row.custom_id, add([usage, Counts(completed=ok, failed=1 - ok)])))
    return found
