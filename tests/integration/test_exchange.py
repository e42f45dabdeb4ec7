"""Commands that are sent together: their replies, and what a broken connection does to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hiredis import pack_command
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.db.client import Command, connect, exchange, packed
from penstock.server.valkey import EmbeddedServer
from tests.support import eventually

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def client(valkey: EmbeddedServer) -> AsyncIterator[Redis]:
    client = connect(valkey.url)
    yield client
    await client.aclose()


async def test_replies_come_in_order_as_bytes_and_an_error_in_its_place(client: Redis) -> None:
    first, wrong, last = await exchange(client, [("ECHO", "ä"), ("NO_SUCH_COMMAND",), ("ECHO", 7)])
    assert (first, last) == ("ä".encode(), b"7")
    assert isinstance(wrong, ResponseError)


async def test_large_arguments_and_many_commands_pass(client: Redis) -> None:
    bodies = [bytes([number % 256]) * 100_000 for number in range(300)]
    assert await exchange(client, [("ECHO", body) for body in bodies]) == bodies


async def test_a_large_body_is_sent_as_it_is_without_a_copy(client: Redis) -> None:
    body = bytes(range(256)) * 1000
    large: Command = ("SET", "ä", body)
    small: Command = ("SET", "ä", 7)
    (head, sent, end) = packed(large)
    assert sent is body
    assert head + sent + end == pack_command(large)
    assert packed(small) == [pack_command(small)]
    assert await exchange(client, [("ECHO", "first"), ("ECHO", body), ("PING",)]) == [b"first", body, b"PONG"]


async def test_a_connection_that_the_server_closed_is_opened_again(
    client: Redis, valkey: EmbeddedServer
) -> None:
    await exchange(client, [("CLIENT", "SETNAME", "exchange-test")])
    async with connect(valkey.url) as other:
        mine = [one["id"] for one in await other.client_list() if one["name"] == "exchange-test"]
        await other.client_kill_filter(_id=mine[0])
    assert await exchange(client, [("ECHO", "again")]) == [b"again"]


async def test_the_replies_to_a_cancelled_caller_go_to_nobody_else(
    client: Redis, valkey: EmbeddedServer
) -> None:
    task = asyncio.create_task(exchange(client, [("BLPOP", "nothing", 60), ("ECHO", "late")]))
    async with connect(valkey.url) as other:
        await eventually(lambda: _waits(other))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await exchange(client, [("ECHO", "mine")]) == [b"mine"]


async def _waits(client: Redis) -> bool:
    return int((await client.info("clients"))["blocked_clients"]) >= 1


async def test_a_server_that_does_not_answer_is_given_up(valkey: EmbeddedServer) -> None:
    client = connect(valkey.url, retries=0, timeout_s=1.0)
    with pytest.raises(RedisTimeoutError):
        await exchange(client, [("BLPOP", "nothing", 5)])
    assert await exchange(client, [("ECHO", "on")]) == [b"on"]
    await client.aclose()
