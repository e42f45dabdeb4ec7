"""The audit stream, as administrators read it: who did what to what. The functions write it, each with its act."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.jobs import StorePart
from broker.tenants import FIELD_NAMES
from jobs.access import Actor

_STEP: Final = 500
_MOST_EXAMINED: Final = 5_000
_CURSOR: Final = re.compile(r"[1-9][0-9]{0,15}-[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Act:
    """An administrative act.

    Attributes:
        id: its place in the stream.
        at_ms: when it happened.
        what: ``pool.pause``, ``key.revoke``, ...
        kind: of its object: ``pool``, ``key``, ...
        on: the id of its object.
        by: who did it.
        details: what else there is to know; ``tenant``, if the object belongs to one.
    """

    id: str
    at_ms: int
    what: str
    kind: str
    on: str
    by: Actor
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which acts are wanted. None: all.

    Attributes:
        what: the act, or its kind: ``pool.pause`` or ``pool``.
        tenant: of whom acted, or of the object.
        since_ms: the earliest.
        until_ms: before this moment.
    """

    what: str | None = None
    tenant: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def wants(self, act: Act) -> bool:
        """Whether an act of the right time is one of them."""
        if self.what is not None and self.what not in {act.what, act.what.partition(".")[0]}:
            return False
        return self.tenant is None or self.tenant in {act.by.tenant, act.details.get("tenant")}


class AuditStream(StorePart):
    """Reads the audit stream."""

    async def page(
        self, wanted: Filter, *, limit: int, after: str | None = None, newest_first: bool = True
    ) -> tuple[list[Act], str | None]:
        """Read some acts.

        Args:
            after: the cursor of the page before.

        Returns:
            The acts, and the cursor of what follows; None: nothing does. A page looks at 5,000 entries at most, so it may
            hold fewer than ``limit`` and have a cursor.

        Raises:
            ValueError: ``after`` is no cursor.
        """
        low = "-" if wanted.since_ms is None else f"{wanted.since_ms}-0"
        high = (
            "+" if wanted.until_ms is None else str(wanted.until_ms - 1)
        )  # the last entry of that millisecond
        if wanted.until_ms == 0:
            return [], None
        if after is not None:
            _check(after)
            low, high = (low, f"({after}") if newest_first else (f"({after}", high)
        found: list[Act] = []
        for _ in range(_MOST_EXAMINED // _STEP):
            entries = await self._read(low, high, newest_first=newest_first)
            for act in map(_act, entries):
                after = act.id
                if wanted.wants(act):
                    found.append(act)
                    if len(found) == limit:
                        return found, after
            if len(entries) < _STEP:
                return found, None
            low, high = (low, f"({after}") if newest_first else (f"({after}", high)
        return found, after

    async def _read(self, low: str, high: str, *, newest_first: bool) -> list[tuple[str, dict[str, str]]]:
        key, stream = self._keys("audit"), self._client
        command = (
            stream.xrevrange(key, high, low, _STEP) if newest_first else stream.xrange(key, low, high, _STEP)
        )
        entries: list[tuple[str, dict[str, str]]] = await self._execute(command)
        return entries


def _act(entry: tuple[str, Mapping[str, str]]) -> Act:
    ident, fields = entry
    kind, _, on = fields["on"].partition(" ")
    details = json.loads(fields["details"])
    if kind == "tenant":
        details = {FIELD_NAMES.get(name, name): value for name, value in details.items()}
    return Act(
        ident,
        int(ident.partition("-")[0]),
        fields["what"],
        kind,
        on,
        Actor.decode(fields["by"]),
        details,
    )


def _check(cursor: str) -> None:
    """Raise ValueError unless it is the id of an entry: Redis counts no further than 64 bits, and from 0-1."""
    if _CURSOR.fullmatch(cursor) is None:
        raise ValueError(f"not a cursor: {cursor[:64]!r}")
