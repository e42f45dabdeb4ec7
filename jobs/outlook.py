"""When a queued job will start: an estimate from a snapshot of its pool. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobs.lanes import Lane


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a job stands, or a new one would; and the facts of its pool.

    Attributes:
        position: jobs before it; None: it is not queued, or it waits for something else than its turn.
        rank: how many of these are its own tenant's.
        lane: its lane; of a follower, its leader's.
        active: jobs that run; ``bulk``: of these, bulk. ``tenant_active`` and ``tenant_bulk``: of its tenant.
        slots: jobs that the live workers run at once, and those that draining ones still run; None: no worker is known.
        bulk_slots: slots that they leave to bulk.
        run_ms: mean run of the other lanes' jobs, ``bulk_run_ms``: of bulk; None: not measured. Chunks of batches count in
            neither, as their rows are the jobs.
        elapsed_ms: how long a few running jobs have run; of the lanes that its ``mean_run_ms`` is about.
        most: the bound of the pool; ``tenant_most``: of the tenant.
        wake_ms: until one of its workers is awake, which all sleep now; then ``slots`` are those that they will have. Of a
            pool that scales from zero and has none, how long its last worker took to start. None: one is awake.
    """

    position: int | None = None
    rank: int = 0
    lane: str = ""
    paused: bool = False
    active: int = 0
    bulk: int = 0
    tenant_active: int = 0
    tenant_bulk: int = 0
    slots: int | None = None
    bulk_slots: int = 0
    run_ms: float | None = None
    bulk_run_ms: float | None = None
    elapsed_ms: tuple[float, ...] = ()
    most: int | None = None
    tenant_most: int | None = None
    wake_ms: float | None = None

    @property
    def mean_run_ms(self) -> float | None:
        """Mean run of a job of this lane; None: not measured."""
        return self.bulk_run_ms if self.lane == Lane.BULK else self.run_ms

    @property
    def turn_ms(self) -> float | None:
        """How often one slot gets free: the mean run, or longer if those that run have; None: not measured.

        A job that has run longer than the mean is expected to run as long again. Slots are averaged by how often they get
        free, so one long job beside many short ones delays little.
        """
        run_ms = self.mean_run_ms
        if not run_ms or not self.elapsed_ms:
            return run_ms
        return len(self.elapsed_ms) / sum(1 / max(run_ms, one) for one in self.elapsed_ms)


def start_ms(facts: Snapshot) -> int | None:
    """Return in how many milliseconds the job will start; None: nothing was measured, or the pool is paused."""
    if facts.position is None:
        return None
    return start_after(facts, facts.position)


def start_after(facts: Snapshot, ahead: int) -> int | None:
    """Return in how many milliseconds a job starts that has ``ahead`` jobs before it; None as for :func:`start_ms`.

    While there are free slots they start at once; then one starts whenever one ends. Before all that, the model wakes.
    """
    if facts.paused or not facts.slots:
        return None
    waits = _turn_ms(facts, facts.slots, ahead)
    return None if waits is None else waits + int(facts.wake_ms or 0)


def _turn_ms(facts: Snapshot, slots: int, ahead: int) -> int | None:
    """Return how long a job waits for its turn, while a worker is awake."""
    slots = min(slots, facts.most or slots)
    free = slots - facts.active
    if facts.lane == Lane.BULK:
        kept = 0 if facts.most is None else max(1, math.ceil(facts.most / 4))  # of the bound, see 1_lib.lua
        slots = max(1, min(slots - kept, facts.bulk_slots))
        free = min(free, facts.bulk_slots - facts.bulk)
    run_ms = facts.turn_ms
    waits = _wait_ms(ahead - max(0, free) + 1, slots, run_ms)
    if facts.tenant_most is None:
        return waits
    own = _wait_ms(
        facts.rank + 1 - max(0, facts.tenant_most - facts.tenant_active), facts.tenant_most, run_ms
    )
    return None if waits is None or own is None else max(waits, own)


def _wait_ms(ends: int, slots: int, run_ms: float | None) -> int | None:
    """Return how long it takes until ``ends`` jobs have ended, where ``slots`` run at once."""
    if ends <= 0:
        return 0
    return None if run_ms is None else int(ends * run_ms / max(1, slots))
