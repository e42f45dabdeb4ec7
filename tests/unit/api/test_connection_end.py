"""The end of connections with the process, on a real server whose application listens to nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest
import uvicorn

from api.connections.limits import Limits
from api.connections.protocol import BoundedProtocol
from api.connections.server import DrainingServer

LIMITS = Limits(
    max_connections=10,
    max_head_bytes=65_536,
    head_timeout_s=5.0,
    read_timeout_s=0.2,
    write_timeout_s=5.0,
    min_bytes_per_s=1,
)


@asynccontextmanager
async def serving(app: Any, counted: list[str]) -> AsyncIterator[tuple[DrainingServer, int]]:
    protocol = partial(BoundedProtocol, limits=LIMITS, count=counted.append)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = DrainingServer(config, grace_s=0.0, delay_s=0.0, stopping=lambda: None)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        async with asyncio.timeout(10):
            await running


@pytest.mark.asyncio
async def test_a_refused_call_that_still_runs_does_not_stop_the_stop() -> None:
    """It was answered 408; the application has not noticed yet when the process ends."""
    ends = asyncio.Event()

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive, send
        await ends.wait()

    counted: list[str] = []
    async with serving(busy, counted) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nx")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    assert counted == ["body_timeout"]
    ends.set()
    writer.close()
