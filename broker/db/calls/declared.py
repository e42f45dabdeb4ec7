"""The functions of pools that scale from zero: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from collections.abc import Mapping

from broker.db.calls.base import WRITES, Answer, Call


class Declared(Answer):
    """What came of a declaration.

    Attributes:
        kind: ``changed``; ``same``: it was so before; ``name``: a name means another model; ``waiting``: jobs, or rows of
            batches, wait for the model that was declared before.
        name: the name, and the ``model`` that it means in the pool ``pool``, or as an operator's alias (None).
        gone: that pool has neither a worker nor a declaration.
        jobs: those that wait for the ``model`` before, chunks of batches and retries that are not due yet among them.
        rows: of batches that only this pool can run.
    """

    kind: str
    name: str = ""
    model: str = ""
    pool: str | None = None
    gone: bool = False
    jobs: int = 0
    rows: int = 0


class PoolDeclare(Call[Declared]):
    """Declare a pool, or replace its record, unless that takes a name from another pool.

    Attributes:
        record: :class:`jobs.declared.DeclaredPool` as JSON.
        force: change the model although jobs or rows of batches wait for the one before, and take names of pools
            that are gone.
        by: who asked, for the audit stream.
    """

    flags = WRITES
    pool: str
    record: str
    force: bool | None = None
    by: str | None = None


class PoolUndeclare(Call[bool]):
    """Forget that a pool scales from zero. Answers whether it did. Its jobs stay where they are.

    Attributes:
        by: who asked, for the audit stream.
    """

    pool: str
    by: str | None = None


class TakenName(Answer):
    """A pool of the settings that is not declared.

    Attributes:
        name: its name that means the model ``model`` in the pool ``declared``, by an operator's declaration, a live worker
            or a LoRA adapter; or as an operator's alias (None).
    """

    pool: str
    name: str
    model: str
    declared: str | None = None


class Declarations(Answer):
    """What came of it.

    Attributes:
        changed: pools whose records are new, different or gone.
        kept: pools of the settings that an operator has declared otherwise, and that stay so.
        taken: pools of the settings that are not declared: a name of theirs is in use for another model.
    """

    changed: list[str]
    kept: list[str]
    taken: list[TakenName]


class PoolsTakeOver(Call[Declarations]):
    """Make the pools that the settings declare those of these settings, and forget their earlier ones.

    Attributes:
        records: by pool, as JSON.
    """

    flags = WRITES
    records: Mapping[str, str]
