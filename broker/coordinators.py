"""The live coordinators: each keeps a lease, and describes itself with it (where its metrics are, for one)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from broker.db.calls.tasks import CoordinatorBeat, CoordinatorBury
from broker.jobs import StorePart


class Coordinators(StorePart):
    """The leases."""

    async def beat(self, info: Mapping[str, Any], ttl_s: float) -> None:
        """Take or prolong a coordinator's lease; 0 seconds end it.

        Args:
            info: what it says of itself, the same at every beat: ``id``, ``host``, ``pid``, ``metrics_url``.
        """
        said = json.dumps(dict(info), sort_keys=True)
        await self._call(CoordinatorBeat(said, int(ttl_s * 1000)))

    async def bury(self, coordinator: str) -> int:
        """End the leases on batches and tasks of a coordinator that has ended; return how many it had.

        Args:
            coordinator: its ``id``, which is also its token for batches.
        """
        return await self._call(CoordinatorBury(coordinator))

    async def alive(self) -> list[dict[str, Any]]:
        """Return what every coordinator with a live lease says of itself."""
        key, now_ms = self._keys("coordinators"), await self._store.now_ms()
        return [
            json.loads(said)
            for said in await self._execute(self._client.zrangebyscore(key, f"({now_ms}", "+inf"))
        ]
