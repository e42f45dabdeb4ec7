"""Kombu's Redis transport, made cheaper.

Kombu builds a new redis-py client, with its table of some hundred callbacks, for every command that is not a blocking
pop: three times a job for the task events alone. A client holds no connection of its own (the pool does), so one per
channel serves.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis


class Channel(redis.Channel):  # type: ignore[misc]
    """A channel that keeps its client."""

    _kept: Any = None

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept is None:
            self._kept = super()._create_client()
        return self._kept

    def _disconnect_pools(self) -> None:
        self._kept = None
        super()._disconnect_pools()


class Transport(redis.Transport):  # type: ignore[misc]
    """The transport with that channel."""

    Channel = Channel


def install() -> None:
    """Make kombu's ``redis://``, ``rediss://`` and ``redis+socket://`` addresses use this transport."""
    for alias in ("redis", "rediss", "redis+socket"):
        TRANSPORT_ALIASES[alias] = "broker.transport:Transport"
