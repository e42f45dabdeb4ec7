"""The last steps of a batch: rows that never ran get an error, and the output files are built from the committed parts."""

from __future__ import annotations

import secrets

from broker.batches import OpenChunk
from coordinator.context import ChangedError, Context
from jobs.batch_keys import file_key, part_key
from jobs.batch_lines import NeverRan, never_ran_line, row_id
from jobs.batch_model import Batch, Counts, File
from jobs.batch_rows import read_row
from jobs.batches import Chunk, form_ledger, parse_ledger
from jobs.ids import FILE_PREFIX, make_id
from storage import Writer
from storage.base import read_lines
from storage.parts import add, committed_keys, recover

_SETTLED = 99_999
"""Part of the writer's number of rows that never ran. No attempt has this number."""

_SETTLERS = 10**9
"""A settling draws a writer's number below this at random: a frozen process that wakes cannot overwrite another's rows."""


async def settle(
    context: Context, batch: Batch, piece: Chunk, opened: OpenChunk | None, why: NeverRan
) -> None:
    """End a chunk that no worker runs: each row without a response gets an error that says why.

    Raises:
        ChangedError: another coordinator drives the batch now.
    """
    ledger, generation = (opened.ledger, opened.generation) if opened else ("", 0)
    left = await recover(context.storage, batch.id, piece.number, ledger)
    number = (generation * 100_000 + _SETTLED) * _SETTLERS + secrets.randbelow(_SETTLERS)
    entries = parse_ledger(left.ledger)
    lines: list[bytes] = []
    end = piece.offset + piece.length
    async for offset, found in read_lines(context.storage, batch.input_key, piece.offset, end):
        behind = offset
        for line in found:
            at, behind = behind, behind + len(line) + 1
            if not line or line.isspace():
                continue
            custom_id = read_row(line).custom_id
            if custom_id not in left.ids:
                lines.append(never_ran_line(row_id(batch.id, at), custom_id, why))
    if lines:
        await context.storage.put(part_key(batch.id, piece.number, number, 1, "err"), b"".join(lines))
        entries.append((number, 1))
    new = add([left.new, Counts(failed=len(lines))])
    ledger = form_ledger(entries)
    if not await context.batches.settle_chunk(batch.id, context.token, piece.number, ledger, new):
        raise ChangedError


async def write_files(context: Context, batch: Batch) -> dict[str, str | None]:
    """Build the output and the error file; return the record's fields that name them.

    Both are built from committed parts only, in one pass and in constant memory. The step may be repeated after a crash: the
    files get the same ids.
    """
    _, done = await context.batches.chunks(batch.id)
    wanted = {
        "ok": ("output_file_id", "output.jsonl", batch.counts.completed),
        "err": ("error_file_id", "errors.jsonl", batch.counts.failed),
    }
    ids = {kind: _file_id(batch, kind) for kind, (_, _, rows) in wanted.items() if rows}
    writers: dict[str, Writer] = {}
    sizes: dict[str, int] = {}
    try:
        for kind, ident in ids.items():
            writers[kind] = await context.storage.writer(file_key(ident))
        for number, ledger in done.items():
            for key, kind, _ in await committed_keys(context.storage, batch.id, number, ledger):
                async for piece in context.storage.read(key):
                    await writers[kind].write(piece)
        for kind in ids:
            sizes[kind] = await writers[kind].commit()
            del writers[kind]
    finally:
        for writer in writers.values():
            await writer.abort()
    fields: dict[str, str | None] = {}
    for kind, ident in ids.items():
        field, name, _ = wanted[kind]
        file = File(
            ident,
            sizes[kind],
            f"{batch.id}_{name}",
            "batch_output",
            file_key(ident),
            0,
            tenant=batch.tenant,
        )
        await context.files.create(file, expires_after_ms=batch.output_after_ms)
        fields[field] = ident
    return fields


def _file_id(batch: Batch, kind: str) -> str:
    """Return an output file's id, the same at every try."""
    entropy = bytes.fromhex(batch.id.removeprefix("batch_"))[-9:] + kind[:1].encode()
    return make_id(FILE_PREFIX, batch.created_ms, entropy)
