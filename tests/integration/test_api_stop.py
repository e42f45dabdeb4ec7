"""The stop of a real api process: nobody behind a load balancer notices it."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from broker.settings import BrokerSettings
from tests.processes import ApiProcess
from tests.puppet import MODEL, Puppet
from tests.support import eventually, free_port

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}


class Stopping:
    """An api process that is made to stop, and clients that each come with a connection of their own."""

    def __init__(self, settings: BrokerSettings, log: Path) -> None:
        self._settings, self._log = settings, log
        self.process: ApiProcess | None = None
        self.links: list[Link] = []

    async def start(self, **settings: Any) -> None:
        self.process = ApiProcess(self._settings, self._log, free_port(), **settings)
        await self.process.ready()
        await eventually(lambda: self.health(200))

    def sigterm(self) -> None:
        self.process.signal(signal.SIGTERM)

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.process.url, timeout=20) as http:
            return await http.request(method, path, **more)

    async def health(self, status: int) -> bool:
        return (await self.ask("GET", "/health/ready")).status_code == status

    def call(self) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.ask("POST", CHAT, json=BODY))

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 20)

    async def closed(self) -> bool:
        try:
            await self.health(503)
        except httpx.TransportError:
            return True
        return False


@pytest_asyncio.fixture
async def api(broker_settings: BrokerSettings, tmp_path: Path) -> AsyncIterator[Stopping]:
    stopping = Stopping(broker_settings, tmp_path / "api.log")
    yield stopping
    for one in stopping.links:
        one.writer.transport.abort()
    stopping.process.close()


async def test_readiness_fails_first_and_open_calls_are_finished(api: Stopping, puppet: Puppet) -> None:
    await api.start()
    asked = api.call()
    claim = await puppet.take()
    api.sigterm()
    await eventually(lambda: api.health(503))
    checks = (await api.ask("GET", "/health/ready")).json()
    assert (checks["missing"], checks["checks"]["api"]) == (["api"], "stopping")
    late = api.call()  # of a client whose load balancer has not looked yet
    await puppet.succeed(await puppet.take(), b'{"late": 1}')
    assert (await late).json() == {"late": 1}
    assert await api.health(503)
    await puppet.succeed(claim, b'{"first": 1}')
    got = await asked
    assert (got.status_code, got.json()) == (200, {"first": 1})
    assert await api.ended() == 0
    assert await api.closed()


async def test_calls_beyond_the_grace_are_cut_and_their_jobs_cancelled(api: Stopping, puppet: Puppet) -> None:
    await api.start(shutdown_grace_s=0.5)
    asked = api.call()
    claim = await puppet.take()
    api.sigterm()
    got = await asked
    assert (got.status_code, got.json()["error"]["code"]) == (503, "server_stopping")
    assert got.headers["retry-after"]
    assert await api.ended() == 0
    assert await puppet.beat() == {claim.id: "cancelled"}


async def test_a_second_signal_hurries(api: Stopping, puppet: Puppet) -> None:
    await api.start(shutdown_grace_s=3600)
    asked = api.call()
    await puppet.take()
    api.sigterm()
    await eventually(lambda: api.health(503))
    api.sigterm()
    assert await api.ended() == 0
    assert (await asked).json()["error"]["code"] == "server_stopping"


async def test_a_follower_is_not_waited_for(api: Stopping, puppet: Puppet) -> None:
    await api.start(shutdown_grace_s=3600)
    job = (await api.ask("POST", "/v1/jobs", json={"input": BODY})).json()
    events = f"/v1/jobs/{job['id']}/events"
    async with httpx.AsyncClient(base_url=api.process.url) as http, http.stream("GET", events) as followed:
        await anext(followed.aiter_bytes())
        api.sigterm()
        assert await api.ended() == 0


async def test_the_port_stays_open_until_load_balancers_have_looked(api: Stopping, puppet: Puppet) -> None:
    await api.start(shutdown_delay_s=3600)
    api.sigterm()
    await eventually(lambda: api.health(503))
    assert (await api.ask("GET", "/v1/models")).status_code == 200
    api.sigterm()
    await api.ended()


HEAD = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Link:
    """A connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[bytes, bytes]:
        """Return the status line and the headers."""
        async with asyncio.timeout(20):
            head = await self._reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head)
            await self._reader.readexactly(int(found[1]))
        return head.split(b" ")[1], head

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            assert await self._reader.read() == b""


async def link(api: Stopping, first: bytes = HEAD) -> Link:
    new = Link(*await asyncio.open_connection("127.0.0.1", urlsplit(api.process.url).port))
    api.links.append(new)
    await new.send(first)
    await new.answer()
    return new


async def test_kept_connections_are_served_until_the_delay_is_over(api: Stopping, puppet: Puppet) -> None:
    await api.start(shutdown_delay_s=3600)
    idle, half = await link(api), await link(api)
    await half.send(HEAD[:-5])
    await link(api)  # by its answer, the half has arrived too
    api.sigterm()
    await eventually(lambda: api.health(503))
    for connection, rest in ((idle, HEAD), (half, HEAD[-5:])):
        await connection.send(rest)
        assert (await connection.answer())[0] == b"200"
    api.sigterm()
    await api.ended()


async def test_only_connections_with_nothing_under_way_are_closed(api: Stopping, puppet: Puppet) -> None:
    await api.start()
    idle, half = await link(api), await link(api)
    await half.send(HEAD[:-5])
    large = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99000000\r\n\r\n" % CHAT.encode()
    refused = await link(api, large)
    asked = api.call()
    claim = await puppet.take()
    api.sigterm()
    await eventually(lambda: api.health(503))
    await idle.ended()
    for _ in range(64):  # a reset would be seen: the refusal's reader is still sending
        await refused.send(b"x" * 65536)
    refused.writer.close()
    await puppet.succeed(claim, b'{"first": 1}')
    assert (await asked).json() == {"first": 1}
    await half.send(HEAD[-5:])  # it is waited for
    status, headers = await half.answer()
    assert status == b"200"
    assert b"connection: close" in headers
    await half.ended()
    assert await api.ended() == 0
