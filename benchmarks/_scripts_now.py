"""The job store of this version: one call pops, checks and claims. Run by `scripts.py`."""

from __future__ import annotations

from typing import Any

import _scripts_side


class Now(_scripts_side.Side):
    """Its transport asks for as many jobs as the worker has room for."""

    async def claim(self, worker: str, count: int) -> list[Any]:
        """See the base."""
        claims: list[Any] = []
        while len(claims) < count:
            room = count - len(claims)
            got = await self.store.claim(worker, pool="default", room=room, bulk_room=room)
            if not got:
                raise RuntimeError(
                    f"a claim found nothing; {len(claims)} of {count} jobs were claimed before"
                )
            claims += got
        return claims


if __name__ == "__main__":
    _scripts_side.main(Now)
