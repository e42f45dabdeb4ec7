"""The functions of pools that scale from zero: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from collections.abc import Mapping

from broker.db.calls.base import WRITES, Answer, Call


class PoolDeclare(Call[bool]):
    """Declare a pool, or replace its record. Answers whether that changed anything.

    Attributes:
        record: :class:`jobs.declared.DeclaredPool` as JSON; ``model``: of it.
        by: who asked, for the audit stream.
    """

    flags = WRITES
    pool: str
    record: str
    model: str
    by: str | None = None


class PoolUndeclare(Call[bool]):
    """Forget that a pool scales from zero. Answers whether it did. Its jobs stay where they are.

    Attributes:
        by: who asked, for the audit stream.
    """

    pool: str
    by: str | None = None


class Declarations(Answer):
    """What came of it.

    Attributes:
        changed: pools whose records are new, different or gone.
        kept: pools of the settings that an operator has declared otherwise, and that stay so.
    """

    changed: list[str]
    kept: list[str]


class PoolsTakeOver(Call[Declarations]):
    """Make the pools that the settings declare those of these settings, and forget their earlier ones.

    Attributes:
        records: by pool, as JSON.
    """

    flags = WRITES
    records: Mapping[str, str]
