"""Comments on a stream that is silent, so that no proxy cuts it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Send

from api.http.sse import PING


@asynccontextmanager
async def pings(send: Send, gap_s: float) -> AsyncIterator[asyncio.Event]:
    """Send a comment whenever the yielded event was not set for ``gap_s`` seconds. Set it with each send of your own."""
    beat = asyncio.Event()

    async def ping() -> None:
        while True:
            try:
                async with asyncio.timeout(gap_s):
                    await beat.wait()
                beat.clear()
            except TimeoutError:
                await send({"type": "http.response.body", "body": PING, "more_body": True})

    task = asyncio.create_task(ping(), name="pings")
    try:
        yield beat
    finally:
        task.cancel()
