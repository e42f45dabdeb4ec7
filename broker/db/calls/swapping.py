"""The functions of swap groups. ``machine`` and ``group`` name one, ``worker`` is the member that calls."""

from __future__ import annotations

from broker.db.calls.base import Answer, Call


class LaneWaits(Answer):
    """What waits for a member in a lane; see :class:`jobs.swapping.Wait`."""

    lane: str
    jobs: int
    oldest_ms: float
    left_ms: float | None = None


class Seen(Answer):
    """A member of the group.

    Attributes:
        said: what it said of itself, JSON; ``age_ms``: how long ago.
        holds: it has a grant.
        failures: how often in a row the first load of its pool failed; ``failed_ms``: how long ago it last did.
    """

    worker: str
    said: str
    age_ms: float
    holds: bool
    running: int
    failures: int = 0
    failed_ms: float = 0.0
    waits: tuple[LaneWaits, ...] = ()


class Reported(Answer):
    """A group as it is now.

    Attributes:
        lost: the worker has no lease, so it is no member.
        members: with the one that asks.
        wanted: the workers that should have the devices.
        decides: nobody has looked for a while, so the one that asks decides who should have them.
    """

    lost: bool = False
    members: tuple[Seen, ...] = ()
    wanted: tuple[str, ...] = ()
    decides: bool = False


class SwapReport(Call[Reported]):
    """Say what a member is and does, and see its group.

    Attributes:
        said: JSON.
        has: the devices are in use by it.
        awake: members that have the devices at once.
        every_ms: time between two decisions.
    """

    machine: str
    group: str
    worker: str
    pool: str
    said: str
    awake: int
    every_ms: int
    ttl_ms: int
    has: bool | None = None


class SwapWant(Call[bool]):
    """Say who should have the devices. False: it is no longer those in ``before`` who should, so somebody else decided."""

    machine: str
    group: str
    before: list[str]
    wanted: list[str]


class SwapTake(Call[bool]):
    """Take the devices. Returns whether the worker has them."""

    machine: str
    group: str
    worker: str
    awake: int


class SwapGive(Call[bool]):
    """Give the devices back; ``leaves``: the worker is no member any more; ``failed``: the pool whose first load failed."""

    machine: str
    group: str
    worker: str
    leaves: bool | None = None
    failed: str | None = None
