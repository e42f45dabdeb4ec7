"""What Valkey spends on a piece of work by its own account (``INFO commandstats``): time, and commands.

A script's line holds the time of the commands inside it, and those have lines of their own. So the time of a piece of work
is that of its scripts and of the commands that a client sent itself; its commands are those inside and those sent.
"""

from __future__ import annotations

import statistics
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Line: TypeAlias = Mapping[str, float]

SCRIPTS = frozenset({"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"})
_BLOCKING = frozenset({"blmpop", "blpop", "brpop", "blmove"})
"""Commands that a client sends and no script does."""

_OWN = ("auth", "client", "config", "function", "hello", "info", "ping", "script", "select", "subscribe")
"""Commands of connections and of the measurement."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What something cost Valkey.

    Attributes:
        us: microseconds of its own time.
        commands: commands that it carried out, without the calls of the scripts themselves.
        calls: calls of scripts.
    """

    us: float = 0.0
    commands: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.us + other.us, self.commands + other.commands, self.calls + other.calls)

    def __truediv__(self, parts: float) -> Cost:
        return Cost(self.us / parts, self.commands / parts, self.calls / parts)

    def rounded(self) -> dict[str, float]:
        """Return it for a report."""
        return {"us": round(self.us, 1), "commands": round(self.commands, 2), "calls": round(self.calls, 2)}


def read(stats: Mapping[str, Line], sent: Mapping[str, int] | None = None) -> Cost:
    """Return the cost of what ran since the counters were reset.

    Args:
        stats: the answer of ``INFO commandstats``, as redis-py reads it.
        sent: how many of a command the client sent itself, where scripts use that command too.
    """
    us = commands = calls = 0.0
    for field, line in stats.items():
        name = field.removeprefix("cmdstat_")
        if name.startswith(_OWN):
            continue
        if name in SCRIPTS:
            us, calls = us + line["usec"], calls + line["calls"]
            continue
        commands += line["calls"]
        if name in _BLOCKING:
            us += line["usec"]
        elif sent and name in sent:
            us += line["usec"] / line["calls"] * sent[name]
    return Cost(us, commands, calls)


def median(costs: Iterable[Cost]) -> Cost:
    """Return the median of each figure: another process that takes the core for a moment does not count."""
    kept = list(costs)
    us = statistics.median(cost.us for cost in kept)
    commands = statistics.median(cost.commands for cost in kept)
    return Cost(us, commands, statistics.median(cost.calls for cost in kept))


class Meter:
    """Reads the counters of one server.

    Args:
        client: a connection of its own to that server.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    async def cost(
        self, work: Coroutine[Any, Any, Any], sent: Mapping[str, int] | None = None
    ) -> tuple[Cost, Any]:
        """Do something, which must not have begun; return what it cost, and its result."""
        await self._client.config_resetstat()
        result = await work
        return read(await self._client.info("commandstats"), sent), result

    async def used_bytes(self) -> int:
        """Return the memory that the server uses."""
        return int((await self._client.info("memory"))["used_memory"])
