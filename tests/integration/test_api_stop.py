"""The stop of a real api process: nobody behind a load balancer notices it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

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
