"""The job store of the version before: a message is popped from a list, and then claimed. Run by `scripts.py`."""

from __future__ import annotations

import asyncio
import importlib
import json
from typing import Any

import _scripts_side
from redis import Redis

from jobs.lanes import Lane


class Before(_scripts_side.Side):
    """It pops as its transport for Celery did, at most 32 messages at a time."""

    async def open(self) -> None:
        """Publish the Celery message that its scripts push."""
        envelope = importlib.import_module("broker.celery.envelope")  # this version has none
        app = importlib.import_module("broker.celery.app")
        url, namespace = self.settings.redis_url, self.settings.namespace
        with Redis.from_url(url) as client:
            envelope.publish_envelope(app.make_celery(url, namespace), client, self.store.keys)
        await super().open()

    async def claim(self, worker: str, count: int) -> list[Any]:
        """See the base."""
        keys = self.store.keys
        lists = [keys("own_queue", "default", worker), *(keys("queue", "default", lane) for lane in Lane)]
        claims: list[Any] = []
        while len(claims) < count:
            _, messages = await self.store.client.blmpop(
                4, len(lists), *lists, direction="RIGHT", count=min(32, count - len(claims))
            )
            ids = [json.loads(message)["headers"]["id"] for message in messages]
            found = await asyncio.gather(*(self.store.claim(ident, worker) for ident in ids))
            if dropped := [one for one in found if not hasattr(one, "attempt")]:
                raise RuntimeError(f"a message gave no right to run its job: {dropped[0]}")
            claims += found
        return claims


if __name__ == "__main__":
    _scripts_side.main(Before)
