"""Large bodies share a bounded memory, and none of them can keep the others out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from starlette.types import Message, Scope

from api.http import body_memory
from api.http.bodies import LIGHT_BYTES, LIGHT_ITEMS, SMALL_BYTES, Bodies, Body
from api.http.errors import ApiError
from api.http.hangup import ClientGoneError

pytestmark = pytest.mark.asyncio

MIB = 1024 * 1024
PIECE = 64 * 1024


class Client:
    """Sends one body, piece by piece, when it is told to."""

    def __init__(self, bodies: Bodies, size: int) -> None:
        self._left = size
        self._pieces: asyncio.Queue[Message] = asyncio.Queue()
        scope: Scope = {"type": "http", "headers": [(b"content-length", b"%d" % size)]}
        self.reading = asyncio.create_task(bodies.read(scope, self._pieces.get))

    def send(self, size: int | None = None) -> None:
        left = self._left if size is None else size
        while left:
            piece = min(left, PIECE)
            left -= piece
            self._left -= piece
            self._pieces.put_nowait(
                {"type": "http.request", "body": b" " * piece, "more_body": self._left > 0}
            )

    def leave(self) -> None:
        self._pieces.put_nowait({"type": "http.disconnect"})

    async def body(self) -> Body:
        async with asyncio.timeout(20):
            return await self.reading

    async def refusal(self) -> ApiError:
        with pytest.raises(ApiError) as refused:
            await self.body()
        return refused.value


Connect = Callable[[int], Client]


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Connect]:
    bodies = Bodies(max_bytes=16 * MIB, max_items=1000, memory_bytes=4 * MIB)
    clients: list[Client] = []

    def new(size: int) -> Client:
        clients.append(Client(bodies, size))
        return clients[-1]

    yield new
    for client in clients:
        client.reading.cancel()
    await asyncio.gather(*(client.reading for client in clients), return_exceptions=True)
    bodies.close()


async def settle() -> None:
    """Let every reader take what was sent."""
    for _ in range(1000):
        await asyncio.sleep(0)


async def test_what_is_announced_holds_nothing(connect: Connect) -> None:
    for _ in range(8):
        connect(16 * MIB).send(PIECE)
    sent = connect(16 * MIB)
    sent.send()
    (await sent.body()).release()


async def test_large_bodies_that_arrive_at_once_do_not_wait_for_each_other(connect: Connect) -> None:
    clients = [connect(8 * MIB) for _ in range(6)]
    for _ in range(128):
        for client in clients:
            client.send(PIECE)
        await asyncio.sleep(0)
    for client in clients:
        (await client.body()).release()


async def test_what_arrived_is_bounded(connect: Connect) -> None:
    clients = [connect(8 * MIB) for _ in range(6)]
    for client in clients:
        client.send()
    first = await clients[0].body()
    await settle()
    assert sum(client.reading.done() for client in clients) == 1
    first.release()
    for client in clients[1:]:
        (await client.body()).release()


async def test_a_prompt_passes_uploads(connect: Connect) -> None:
    eldest, upload = connect(16 * MIB), connect(16 * MIB)
    eldest.send(MIB)
    await settle()
    upload.send(15 * MIB)
    await settle()
    assert not upload.reading.done()
    prompt = connect(SMALL_BYTES * 2)
    prompt.send()
    (await prompt.body()).release()


async def test_who_sends_slowly_gives_way_to_those_who_wait(connect: Connect) -> None:
    slow = [connect(16 * MIB) for _ in range(4)]
    for client in slow:
        client.send(MIB)
        await settle()
    late = connect(2 * MIB)
    late.send()
    for client in slow[1:]:
        error = await client.refusal()
        assert (error.status, error.code) == (503, "body_memory_full")
        assert error.headers["retry-after"]
    (await late.body()).release()


async def test_the_wait_is_bounded(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_memory, "WAIT_S", 0.1)
    whole = [connect(size) for size in (8 * MIB, 3 * MIB)]
    for client in whole:
        client.send()
        await client.body()  # and it is kept
    late = connect(3 * MIB)
    late.send()
    assert (await late.refusal()).code == "body_memory_full"


@pytest.mark.parametrize("complete", [True, False])
async def test_a_client_that_leaves_does_not_wait(connect: Connect, complete: bool) -> None:
    held = [connect(size) for size in (8 * MIB, 3 * MIB, MIB)]
    for client in held:
        client.send()
        await client.body()
    late = connect(2 * PIECE)
    late.send(2 * PIECE if complete else PIECE + 1)
    await settle()
    assert not late.reading.done()
    late.leave()
    with pytest.raises(ClientGoneError):
        await late.body()


LONG = b'["%b"]' % (b"x" * (SMALL_BYTES * 2))


@pytest.mark.parametrize(
    ("data", "added", "at_once"),
    [
        (LONG, 0, True),
        (LONG, SMALL_BYTES + 1, False),  # what is put in front of it was not counted
        (b"[%b0]" % (b"0," * (SMALL_BYTES * 2)), 0, False),
        (b'["%b"]' % (b"x" * LIGHT_BYTES), 0, False),
        (b"[%b0]" % (b"0," * LIGHT_ITEMS), 0, True),  # it is small
    ],
)
async def test_a_body_of_few_items_takes_no_way_to_the_thread(data: bytes, added: int, at_once: bool) -> None:
    bodies = Bodies(max_bytes=MIB, max_items=MIB, memory_bytes=MIB)

    async def receive() -> Message:
        return {"type": "http.request", "body": data}

    with await bodies.read({"type": "http", "headers": []}, receive) as body:
        body.data += b" " * added
        assert (await body.run(threading.get_ident) == threading.get_ident()) is at_once
        body.put(body.data)
        assert (await body.run(threading.get_ident) == threading.get_ident()) is at_once
        body.put(bytes(SMALL_BYTES + 1))
        assert await body.run(threading.get_ident) != threading.get_ident()
    bodies.close()
