"""Which readers are cut, on a transport whose client is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from api.connections.limits import Limits
from api.connections.protocol import BoundedProtocol

pytestmark = pytest.mark.asyncio

LIMITS = Limits(
    max_connections=8,
    max_head_bytes=8192,
    head_timeout_s=20,
    read_timeout_s=20,
    write_timeout_s=1.0,
    min_bytes_per_s=1024,
)
PIECE = 20_000


class Transport:
    """Holds what is written until the client takes it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.waiting += len(data)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    close = write_eof = pause_reading = resume_reading = lambda self: None


@pytest.fixture
def pieces() -> asyncio.Queue[bytes]:
    return asyncio.Queue()


@pytest_asyncio.fixture
async def stream(pieces: asyncio.Queue[bytes]) -> AsyncIterator[tuple[BoundedProtocol, Transport]]:
    """A connection whose call is answered with pieces."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while piece := await pieces.get():
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    def count(code: str) -> None:
        pass

    config = Config(app, lifespan="off", log_config=None)
    config.load()
    state, transport = ServerState(), Transport()
    protocol = BoundedProtocol(config, state, {}, limits=LIMITS, count=count)
    protocol.connection_made(transport)  # type: ignore[arg-type]
    protocol.data_received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    yield protocol, transport
    protocol.connection_lost(None)
    pieces.put_nowait(b"")
    await asyncio.gather(*state.tasks)


async def test_a_reader_that_keeps_pace_is_not_cut(
    stream: tuple[BoundedProtocol, Transport], pieces: asyncio.Queue[bytes]
) -> None:
    """Its buffer is never empty, and grows: the application writes a little more than it reads."""
    protocol, transport = stream
    transport.waiting = 70_000
    protocol.pause_writing()
    transport.waiting = 10_000
    protocol.resume_writing()
    for _ in range(60):  # for longer than write_timeout_s
        pieces.put_nowait(b"x" * PIECE)
        await asyncio.sleep(0.02)
        transport.waiting -= PIECE
    assert transport.waiting > 10_000
    assert not transport.aborted


async def test_a_reader_that_stops_is_cut(stream: tuple[BoundedProtocol, Transport]) -> None:
    protocol, transport = stream
    transport.waiting = 70_000
    protocol.pause_writing()
    async with asyncio.timeout(20):
        while not transport.aborted:
            await asyncio.sleep(0.01)
