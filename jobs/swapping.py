"""Which models of a swap group hold its devices. Pure.

The members of a group are workers, one for each model, that take turns on the same devices. One of them decides for all, at
regular looks, and each look may change one place: a member that should have the device replaces one that has it.

- A member that has had nothing to do for a moment gives way to any that has. The moment is short beside the swap, and longer
  than the gaps between the calls of a model in use.
- Otherwise the oldest jobs decide: those of higher lanes age faster. A member replaces one that works if its oldest job is
  older than the other's by a few times what the swap costs; by more if it has few jobs beside the other, by less if many.
  So the share of time that goes into swaps is bounded, and it falls by itself where swaps are dear.
- Jobs that near their deadline count as old.
- Nobody starves: once a job waits for ``max_wait_s``, its model is next, whatever waits elsewhere. Of several such models
  it is the one that has been off the devices for the longest, so that each has its turn.
- A member that has never loaded comes first. If its load fails it waits for a while, longer each time, and meanwhile gets
  a place only if one is free: else a model that cannot load would take the devices from the healthy ones without end.
- A member keeps the device for ``min_stay_s``, and no swap begins before the one before it is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs.lanes import Lane

WEIGHTS: dict[str, float] = {
    Lane.REALTIME: 1.0,
    Lane.HIGH: 0.5,
    Lane.NORMAL: 0.25,
    Lane.LOW: 0.1,
    Lane.BULK: 0.03,
}
"""How fast a job of a lane ages, beside the clock."""

PATIENCE = 3.0
"""A member that works is replaced once another's oldest job is older by so many times what the swap costs."""

LEAST_SHARE, MOST_SHARE = 0.5, 4.0
"""Bounds of the factor by which the numbers of their jobs change that: the square root of their ratio."""

LINGER = 0.1
"""For so much of what the swap costs an idle member keeps the devices: its next call may be about to come."""

RETRY_MS, LONGEST_RETRY_MS = 30_000.0, 1_800_000.0
"""Time after a failed first load in which the member replaces no other. It doubles with each further failure."""

_NEAR_MS = 1000.0
"""A deadline is near this long before a swap could not meet it any more."""

_NOT_MEASURED_MS = 5000.0
"""The cost of a wake or a sleep that nobody has measured yet."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What waits for a member in one lane.

    Attributes:
        jobs: how many.
        oldest_ms: for how long the first does.
        left_ms: until its deadline; None: it has none.
    """

    lane: str
    jobs: int
    oldest_ms: float
    left_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A worker of the group.

    Attributes:
        worker: its incarnation.
        holds: it has a grant: its model is on the devices, or on its way there or from there.
        awake_ms: since when it is ready; None: it is not.
        boots: it has not loaded its model yet, and registers once it has. It must have the device once.
        failures: how often in a row its first load failed; ``failed_ms``: since the last time.
        leaves: it drains, so it wakes no more.
        running: jobs that run on it.
        idle_ms: since when no job runs on it, and none waits for it; None: it has one.
        away_ms: since when it has been off the devices.
        waits: what waits for it, by lane; empty while its pool is paused.
        wake_ms: what its last wakes took; ``sleep_ms``: its last ways to sleep. None: not measured.
    """

    worker: str
    holds: bool = False
    awake_ms: float | None = None
    boots: bool = False
    failures: int = 0
    failed_ms: float = 0.0
    leaves: bool = False
    running: int = 0
    idle_ms: float | None = None
    away_ms: float = 0.0
    waits: tuple[Wait, ...] = ()
    wake_ms: float | None = None
    sleep_ms: float | None = None

    @property
    def wants(self) -> bool:
        """Whether it has a use for the devices."""
        return not self.leaves and (self.boots or any(wait.jobs for wait in self.waits))

    @property
    def rests(self) -> bool:
        """Whether its first load failed a short while ago."""
        pause = min(LONGEST_RETRY_MS, RETRY_MS * 2.0 ** min(self.failures - 1, 20))
        return self.boots and self.failures > 0 and self.failed_ms < pause

    @property
    def jobs(self) -> int:
        """Jobs that run on it or wait for it."""
        return self.running + sum(wait.jobs for wait in self.waits)

    @property
    def oldest_ms(self) -> float:
        """For how long the first of its jobs waits, whatever its lane."""
        return max((wait.oldest_ms for wait in self.waits if wait.jobs), default=0.0)


@dataclass(frozen=True, slots=True)
class Rules:
    """A group's settings.

    Attributes:
        awake: members that hold the devices at once.
        min_stay_ms: how long one keeps them at least.
        max_wait_ms: how long a job waits until its model is next.
    """

    awake: int = 1
    min_stay_ms: float = 5000.0
    max_wait_ms: float = 30_000.0


def decide(members: Iterable[Member], wanted: frozenset[str], rules: Rules) -> frozenset[str]:
    """Return the workers that should hold the devices.

    Args:
        members: every live worker of the group.
        wanted: the answer of the last look.

    Returns:
        ``wanted``, but for the members that have gone, and for one swap at most. Nothing changes while a swap is under way.
    """
    everyone = {one.worker: one for one in members}
    kept = frozenset(worker for worker in wanted if worker in everyone and not everyone[worker].leaves)
    asking = sorted(
        (one for one in everyone.values() if one.wants and one.worker not in kept),
        key=lambda one: _order(one, rules),
    )
    if not asking:
        return kept
    if len(kept) < rules.awake:
        return kept | {asking[0].worker}
    if any(_moves(one, kept) for one in everyone.values()):
        return kept
    for comer in asking:
        if comer.rests:
            continue
        going = [one for one in (everyone[worker] for worker in kept) if _gives_way(one, comer, rules)]
        if going:
            least = min(going, key=lambda one: (one.idle_ms is None, urgency_ms(one, 0.0), one.worker))
            return kept - {least.worker} | {comer.worker}
    return kept


def cost_ms(going: Member, comer: Member) -> float:
    """Return what it takes to replace one member by another, as far as it was measured."""
    sleep = 0.0 if going.sleep_ms is None else going.sleep_ms
    return sleep + (_NOT_MEASURED_MS if comer.wake_ms is None else comer.wake_ms)


def urgency_ms(member: Member, cost: float) -> float:
    """Return how old its jobs count as, in milliseconds: the oldest one by its lane, or more if a deadline is near.

    Args:
        cost: milliseconds that pass before its jobs can start.
    """
    most = 0.0
    for wait in member.waits:
        if wait.jobs:
            age = WEIGHTS.get(wait.lane, 0.25) * wait.oldest_ms
            if wait.left_ms is not None and cost <= wait.left_ms <= 2 * cost + _NEAR_MS:
                age += PATIENCE * cost * MOST_SHARE  # later it would be too late
            most = max(most, age)
    return most


def expected_wake_ms(
    member: Member, members: Sequence[Member], wanted: frozenset[str], rules: Rules
) -> float:
    """Estimate the milliseconds until a member that is not awake can run a job that comes now."""
    wake = _NOT_MEASURED_MS if member.wake_ms is None else member.wake_ms
    holders = [one for one in members if one.holds and one.worker != member.worker]
    if member.holds or len(holders) < rules.awake:
        return wake
    if member.worker in wanted:  # it waits for one that is on its way to sleep
        return min(one.sleep_ms or 0.0 for one in holders) + wake
    return min(_stays_ms(one, member, rules) + cost_ms(one, member) for one in holders)


def _stays_ms(holder: Member, comer: Member, rules: Rules) -> float:
    """Return for how long a member will probably keep the devices, once a job waits for the other."""
    cost = cost_ms(holder, comer)
    if holder.idle_ms is not None:
        return max(0.0, LINGER * cost - holder.idle_ms)
    stays = max(0.0, rules.min_stay_ms - (holder.awake_ms or 0.0))
    waits = min(PATIENCE * cost * _share(holder, comer), rules.max_wait_ms) - comer.oldest_ms
    return max(stays, waits)


def _order(member: Member, rules: Rules) -> tuple[float, ...]:
    """Return who goes first among those that ask, as a sort key.

    Those that have never loaded, then those that waited for too long, then by urgency; many jobs count more than few. Those
    whose load failed a short while ago are the last.
    """
    rank = _rank(member, rules)
    urgency = urgency_ms(member, 0.0) * float(max(1, member.jobs) ** 0.5)
    return (-rank, -member.away_ms if rank else -urgency, -member.away_ms)


def _rank(member: Member, rules: Rules) -> int:
    if member.boots:
        return -1 if member.rests else 1 if member.failures else 2
    return 1 if member.oldest_ms >= rules.max_wait_ms else 0


def _moves(member: Member, kept: frozenset[str]) -> bool:
    """Whether it is on its way to the devices, or from there."""
    if member.worker in kept:
        return member.awake_ms is None
    return member.holds


def _share(holder: Member, comer: Member) -> float:
    ratio = max(1, holder.jobs) / max(1, comer.jobs)
    return float(min(MOST_SHARE, max(LEAST_SHARE, ratio**0.5)))


def _gives_way(holder: Member, comer: Member, rules: Rules) -> bool:
    """Whether a member that is awake makes way for one that asks."""
    cost = cost_ms(holder, comer)
    if holder.idle_ms is not None and holder.idle_ms >= LINGER * cost:
        return True
    if (holder.awake_ms or 0.0) < rules.min_stay_ms:
        return False
    if _rank(comer, rules):
        return True
    return urgency_ms(comer, cost) >= urgency_ms(holder, 0.0) + PATIENCE * cost * _share(holder, comer)
