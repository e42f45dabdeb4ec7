"""The job store of this version: one call pops, checks and claims. Run by `scripts.py`."""

from __future__ import annotations

from typing import Any

import _scripts_side

from broker.celery.claimer import Claimer, Command, Room
from broker.db.client import connect

_CAPACITY = 256


class Now(_scripts_side.Side):
    """Its transport for Celery asks as the worker's `Claimer` says: it waits for the bell, and then claims what there is."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._transport = connect(url, text=False)
        self._claimers: dict[str, Claimer] = {}
        self._next: dict[str, Command] = {}

    async def close(self) -> None:
        """See the base."""
        await self._transport.aclose()
        await super().close()

    async def claim(self, worker: str, count: int) -> list[Any]:
        """See the base."""
        claims = await self.store.claim(worker, room=count)
        if len(claims) != count:
            raise RuntimeError(f"{count} jobs were asked for, and {len(claims)} claimed")
        return claims

    async def take(self, worker: str, count: int) -> list[Any]:
        """See the base. It ends when the worker would wait for the next bell."""
        claimer = self._claimers.get(worker) or self._claimers.setdefault(worker, self._claimer(worker))
        claims: list[Any] = []
        command = self._next.pop(worker, None) or claimer.command()
        while command is not None and (command[0] != "BLPOP" or len(claims) < count):
            claims += claimer.receive(await self._transport.execute_command(*command))
            command = claimer.command()
        assert command is not None
        self._next[worker] = command
        return [claimer.take(claim.id) for claim in claims]

    def _claimer(self, worker: str) -> Claimer:
        return Claimer(
            worker,
            keys=self.store.keys,
            pool="default",
            message=lambda *_: {},
            retention_ms=self.store.retention_ms,
            sealer=self.store.sealer,
            room=lambda: Room(jobs=_CAPACITY, bulk=_CAPACITY, suspects=1, recheck_s=1.0),
            give_back=lambda _: None,
        )


if __name__ == "__main__":
    _scripts_side.main(Now)
