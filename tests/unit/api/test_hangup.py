"""Clients that hang up on a real server, as the application meets it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from api.http.hangup import HANGUP, ClientGoneError, Hangup, until_hangup
from tests.unit.api.test_connection_end import serving

pytestmark = pytest.mark.asyncio

REQUEST = b"GET /%b HTTP/1.1\r\nhost: x\r\n\r\n"


class Waiter:
    """An application that waits for ever, and notes which requests began and which were told of the hang-up."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.enters = asyncio.Event()
        self.enters.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del receive, send
        path = scope["path"].removeprefix("/")
        self.begun.put_nowait(path)
        await self.enters.wait()
        try:
            with until_hangup(scope):
                await asyncio.Event().wait()
        except ClientGoneError:
            self.told.put_nowait(path)


@pytest_asyncio.fixture
async def waiter() -> AsyncIterator[tuple[Waiter, int]]:
    app = Waiter()
    async with serving(app, []) as (_, port):
        yield app, port


async def hang_up_after(waiter: tuple[Waiter, int], *paths: bytes) -> None:
    """Send requests on one connection, and close it when the first of them has begun."""
    app, port = waiter
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(REQUEST % path for path in paths))
    async with asyncio.timeout(10):
        assert await app.begun.get() == paths[0].decode()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_call_is_told_of_the_hang_up(waiter: tuple[Waiter, int]) -> None:
    await hang_up_after(waiter, b"one")
    async with asyncio.timeout(10):
        assert await waiter[0].told.get() == "one"


async def test_the_first_of_two_calls_that_came_together_is_told_too(waiter: tuple[Waiter, int]) -> None:
    """The second one waits for its turn. uvicorn itself tells none but the last."""
    await hang_up_after(waiter, b"one", b"two")
    async with asyncio.timeout(10):
        assert await waiter[0].told.get() == "one"


async def test_a_call_that_waits_only_after_the_hang_up_is_told_at_once(waiter: tuple[Waiter, int]) -> None:
    app, _ = waiter
    app.enters.clear()
    await hang_up_after(waiter, b"one")
    app.enters.set()
    async with asyncio.timeout(10):
        assert await app.told.get() == "one"


async def test_a_hang_up_that_is_told_twice_is_one() -> None:
    """A connection that is cut is lost after that: two cancellations would meet one that takes them back."""
    hangup = Hangup(lambda: None)

    async def answer() -> None:
        with until_hangup({HANGUP: hangup}):
            await asyncio.Event().wait()

    task = asyncio.create_task(answer())
    await asyncio.sleep(0)
    hangup.happen()
    hangup.happen()
    with pytest.raises(ClientGoneError):
        await task


async def test_a_block_that_has_ended_is_left_alone() -> None:
    entered, goes_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        del receive
        with until_hangup(scope):
            entered.set()
        await goes_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        done.set()

    async with serving(answer, []) as (server, port), asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"one")
        await entered.wait()
        writer.close()
        while server.server_state.connections:
            await asyncio.sleep(0.01)
        goes_on.set()
        await done.wait()
