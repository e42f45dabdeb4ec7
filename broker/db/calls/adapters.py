"""The functions of LoRA adapters as data: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from broker.db.calls.base import WRITES, Answer, Call


class Added(Answer):
    """The answer to a declaration.

    Attributes:
        kind: ``added``; ``replaced``: the name had other files, or a worker could not load them; ``same``: it had these;
            ``skipped``: these settings were taken over before; ``full``: the pool has its most adapters; ``model``,
            ``alias``: the name means a model; ``other``: another pool has other files of this name.
        pool: the pool that has the name.
    """

    kind: str
    pool: str = ""


class AdapterAdd(Call[Added]):
    """Declare an adapter whose object is in storage, or replace its files.

    Attributes:
        record: :class:`jobs.adapters.Adapter`, JSON; the time in it is ignored.
        key, digest, source, tenant: those of the record.
        announced: the id under which its object was announced.
        most: adapters of the pool at most.
        once: from settings: only if this source was not taken over before.
        by: who asked, for the audit stream.
    """

    flags = WRITES
    pool: str
    name: str
    record: str
    key: str
    digest: str
    source: str
    announced: str
    most: int
    tenant: str | None = None
    once: bool | None = None
    by: str | None = None


class AdapterRemove(Call[bool]):
    """Forget an adapter, and have its object deleted. Answers whether there was one."""

    pool: str
    name: str
    by: str | None = None


class AdapterPin(Call[bool]):
    """Have workers keep an adapter loaded, or no longer. Answers whether there is such an adapter."""

    pool: str
    name: str
    pinned: bool
    by: str | None = None


class AdapterReport(Call[bool]):
    """Note what a worker says of an adapter. False: it was removed or replaced, so the worker drops its own.

    Attributes:
        worker: the incarnation.
        digest: of the version that it means.
        state: of :class:`jobs.adapters.AdapterState`.
    """

    worker: str
    pool: str
    name: str
    digest: str
    state: str
    reason: str | None = None
