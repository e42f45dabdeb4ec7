"""A swap group in Redis: what its members say, who should have the devices, and who has them.

A grant is a member's right to use the devices. There are never more than the group allows, and it ends with the lease of its
holder, so a member that was killed is replaced as soon as its jobs are. :mod:`jobs.swapping` decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from broker.db.calls import swapping as calls
from broker.jobs import JobStore
from jobs.swapping import Member, Wait


@dataclass(frozen=True, slots=True)
class Said:
    """What a member says of itself; see :class:`jobs.swapping.Member`."""

    boots: bool = False
    leaves: bool = False
    awake_ms: float | None = None
    idle_ms: float | None = None
    away_ms: float = 0.0
    wake_ms: float | None = None
    sleep_ms: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The group at one moment.

    Attributes:
        holds: the member that asked has a grant.
        decides: it is the one that decides now. Else what waits is as of the last decision.
    """

    members: tuple[Member, ...]
    wanted: frozenset[str]
    holds: bool
    decides: bool


class SwapGroup:
    """One member's view of its group. Every method raises ``StoreUnavailableError`` if Redis cannot be reached.

    Args:
        machine, group: name the group: the devices are those of one machine.
        worker: the member's incarnation, which has a lease.
        awake: members that have the devices at once; all members say the same.
        every_s: time between two decisions.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        machine: str,
        group: str,
        worker: str,
        pool: str,
        awake: int,
        every_s: float,
        lease_ttl_s: float,
    ) -> None:
        self._functions, self._worker, self._pool, self._awake = store.functions, worker, pool, awake
        self._machine, self._group = machine, group
        self._every_ms, self._ttl_ms = int(every_s * 1000), int(lease_ttl_s * 1000)

    async def report(self, said: Said, *, has: bool) -> View | None:
        """Say what this member is and does, and see the group.

        Args:
            has: it uses the devices.

        Returns:
            None: it has no lease, so it is no member.
        """
        call = calls.SwapReport(
            machine=self._machine,
            group=self._group,
            worker=self._worker,
            pool=self._pool,
            said=json.dumps(asdict(said)),
            awake=self._awake,
            every_ms=self._every_ms,
            ttl_ms=self._ttl_ms,
            has=has or None,
        )
        answer = await self._functions.call(call)
        if answer.lost:
            return None
        members = tuple(_member(one) for one in answer.members)
        holds = any(one.holds for one in members if one.worker == self._worker)
        return View(members, frozenset(answer.wanted), holds, answer.decides)

    async def want(self, before: Iterable[str], wanted: Iterable[str]) -> bool:
        """Say who should have the devices. False: somebody else decided since ``before`` was read."""
        call = calls.SwapWant(
            machine=self._machine, group=self._group, before=sorted(before), wanted=sorted(wanted)
        )
        return await self._functions.call(call)

    async def take(self) -> bool:
        """Take the devices, if this member should have them and there is a place. Returns whether it has them."""
        call = calls.SwapTake(
            machine=self._machine, group=self._group, worker=self._worker, awake=self._awake
        )
        return await self._functions.call(call)

    async def give(self, *, leaves: bool = False, failed: bool = False) -> None:
        """Give the devices back. They must be free by now.

        Args:
            leaves: this member leaves the group, too.
            failed: it could not load its model for the first time.
        """
        call = calls.SwapGive(
            machine=self._machine,
            group=self._group,
            worker=self._worker,
            leaves=leaves or None,
            failed=self._pool if failed else None,
        )
        await self._functions.call(call)


def _member(seen: calls.Seen) -> Member:
    said: dict[str, Any] = json.loads(seen.said)

    def since(name: str) -> float | None:
        value = said.get(name)
        return None if value is None else float(value) + seen.age_ms

    return Member(
        seen.worker,
        holds=seen.holds,
        awake_ms=since("awake_ms"),
        boots=bool(said.get("boots")),
        leaves=bool(said.get("leaves")),
        failures=seen.failures,
        failed_ms=seen.failed_ms,
        running=seen.running,
        idle_ms=since("idle_ms") if not seen.running and not seen.waits else None,
        away_ms=since("away_ms") or 0.0,
        waits=tuple(Wait(one.lane, one.jobs, one.oldest_ms, one.left_ms) for one in seen.waits),
        wake_ms=said.get("wake_ms"),
        sleep_ms=said.get("sleep_ms"),
    )
