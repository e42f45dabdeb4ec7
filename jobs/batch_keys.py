"""The keys of a batch's objects in storage."""

from __future__ import annotations

import re

_PART = re.compile(r".*/(\d+)-(\d+)\.(ok|err)\Z")


def file_key(file_id: str) -> str:
    """Return the key of a file's object."""
    return f"files/{file_id}"


def batch_folder(batch_id: str) -> str:
    """Return the folder of a batch's plan and parts."""
    return f"batches/{batch_id}"


def plan_key(batch_id: str, name: str) -> str:
    """Return the key of a batch's plan: how its input is cut into chunks. The batch's record has its name."""
    return f"batches/{batch_id}/{name}"


def chunk_folder(batch_id: str, chunk: int) -> str:
    """Return the folder of a chunk's parts."""
    return f"batches/{batch_id}/parts/{chunk:07d}"


def part_key(batch_id: str, chunk: int, writer: int, part: int, kind: str) -> str:
    """Return the key of a part: rows that succeeded (kind ``ok``) or failed (``err``)."""
    return f"{chunk_folder(batch_id, chunk)}/{writer:012d}-{part:07d}.{kind}"


def read_part_key(key: str) -> tuple[int, int, str] | None:
    """Return (writer, part, kind) of a part's key; None: it is another object."""
    found = _PART.match(key)
    return (int(found[1]), int(found[2]), found[3]) if found else None
