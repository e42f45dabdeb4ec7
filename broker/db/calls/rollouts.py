"""The functions of new versions of models, and of aliases as data: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.db.calls.base import WRITES, Call


class RolloutStep(Call[bool]):
    """Change a pool's record of versions, and what jobs see of it. False: it was changed since it was read.

    Attributes:
        step: of the record that was read; 0: there was none.
        nonce: of this call, so that one that is sent twice is known again.
        fields: as texts; '' removes a field.
        held: a pool whose queue stays open without a live worker; ``unheld``: one of which this ends.
        heir: a pool whose workers start, and that forwards to the pool ``heir_of`` until then; it gets the LoRA adapters of
            that.
        to: takes the jobs of the pool ``from_pool`` from now on; it gets the LoRA adapters of that as they are now.
        what: the act, for the audit stream, with ``details``; ``by``: who asked.
    """

    flags = WRITES
    pool: str
    step: int
    nonce: str
    fields: Mapping[str, str]
    held: str | None = None
    unheld: str | None = None
    heir: str | None = None
    heir_of: str | None = None
    from_pool: str | None = None
    to: str | None = None
    what: str | None = None
    details: Mapping[str, Any] | None = None
    by: str | None = None


class PoolForget(Call[bool]):
    """Forget the models of a pool that forwards to another one. Answers whether it did: no job and no worker is there."""

    pool: str


class AliasSet(Call[str]):
    """Have an alias mean a model. Answers ``changed``, ``same``, or ``model``: it is a model's own name, and stays so."""

    flags = WRITES
    alias: str
    model: str
    by: str | None = None


class AliasDrop(Call[bool]):
    """Remove an alias that was set as data. Answers whether there was one."""

    alias: str
    by: str | None = None
