"""Ids of jobs, files and batches, sortable by time (UUID version 7, RFC 9562 section 5.7).

A job's id may name the *cell* that has it: the Redis server with its pool (``docs/adr/0029-cells.md``). There is one cell
now, without a name, so no id has that part yet; every reader accepts it.
"""

from __future__ import annotations

import re

FILE_PREFIX = "file-"
BATCH_PREFIX = "batch_"

CONVERSATION_PREFIX = "conv_"

_PREFIX = "job_"
_PATTERN = re.compile(r"job_(?:([a-z0-9]{1,8})_)?[0-9a-f]{32}\Z")
_FILE = re.compile(r"file-[0-9a-f]{32}\Z")
_CONVERSATION = re.compile(r"conv_[0-9a-f]{32}\Z")
_BATCH = re.compile(r"batch_[0-9a-f]{32}\Z")


def make_job_id(now_ms: int, entropy: bytes, cell: str = "") -> str:
    """Make an id such as ``job_019a...`` (36 characters), or with its cell ``job_eu1_019a...``. See :func:`make_id`."""
    return make_id(f"{_PREFIX}{cell}_" if cell else _PREFIX, now_ms, entropy)


def cell_of(job_id: str) -> str:
    """Return the cell that a job's id names; empty: it names none.

    Raises:
        ValueError: it is no job's id.
    """
    found = _PATTERN.match(job_id)
    if found is None:
        raise ValueError(f"{job_id[:100]!r} is no job's id")
    return found[1] or ""


def make_id(prefix: str, now_ms: int, entropy: bytes) -> str:
    """Make an id: the prefix and 32 hexadecimal digits.

    Args:
        now_ms: Unix time in milliseconds.
        entropy: at least 10 random bytes.

    Raises:
        ValueError: too little entropy, or a time outside 48 bits.
    """
    if len(entropy) < 10:
        raise ValueError("an id needs 10 random bytes")
    if not 0 <= now_ms < 1 << 48:
        raise ValueError("now_ms is outside 48 bits")
    rand = int.from_bytes(entropy[:10], "big")
    value = now_ms << 80 | 0x7 << 76 | (rand >> 64 & 0xFFF) << 64 | 0b10 << 62 | rand & (1 << 62) - 1
    return f"{prefix}{value:032x}"


def made_ms(ident: str) -> int:
    """Return when an id was made: Unix time in milliseconds, by its maker's clock."""
    return int(ident[-32:], 16) >> 80


def is_job_id(text: str) -> bool:
    """Whether ``text`` has the form of a job id (no look-up)."""
    return _PATTERN.match(text) is not None


def is_file_id(text: str) -> bool:
    """Whether ``text`` has the form of a file's id (no look-up)."""
    return _FILE.match(text) is not None


def is_batch_id(text: str) -> bool:
    """Whether ``text`` has the form of a batch's id (no look-up)."""
    return _BATCH.match(text) is not None


def is_conversation_id(text: str) -> bool:
    """Whether ``text`` has the form of a conversation's id (no look-up)."""
    return _CONVERSATION.match(text) is not None
