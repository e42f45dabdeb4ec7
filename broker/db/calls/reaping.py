"""The reaper's function: see :mod:`broker.db.calls.base`."""

from __future__ import annotations

from broker.db.calls.base import Answer, Call


class Reaped(Answer):
    """What a round of the reaper did; see :class:`jobs.facts.Reaped`.

    Attributes:
        ran: whether it did anything; else another process's round was just before.
        more: work is left over, so call again at once.
    """

    ran: bool = False
    more: bool = False
    requeued: int = 0
    failed: int = 0
    expired: int = 0
    retired: int = 0
    due: int = 0
    aged: int = 0
    requeued_ids: tuple[str, ...] = ()
    failed_ids: tuple[str, ...] = ()


class Reap(Call[Reaped]):
    """One round of the reaper. Any number of processes may run it.

    Attributes:
        lease_ttl_ms: of a worker that did not say.
        interval_ms: of rounds; nothing is done if another round was less than half of it ago.
        usual_gap_ms: between rounds on a busy machine.
        most: steps of each kind in this call.
        ageing_ms: until a job moves up one lane; 0: never. Used until an api has stored its own.
    """

    lease_ttl_ms: int
    interval_ms: int
    usual_gap_ms: int
    most: int
    retention_ms: int
    ageing_ms: int
