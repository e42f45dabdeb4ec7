"""A call of the api sends Redis its transition, and no read but the one that its answer needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.integration.test_api_jobs import INPUT
from tests.puppet import Puppet

pytestmark = pytest.mark.asyncio

CHAT = "/v1/chat/completions"
LARGE = b'{"large": "' + b"x" * 300_000 + b'"}'


class Watched:
    """The commands that Redis got, those within functions left out."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line of ``MONITOR``."""
        if line["client_type"] != "lua":
            self._seen.append(line["command"])

    def of(self, job_id: str) -> list[str]:
        """Name those that name a job, but for its worker's and the background's: commands, and functions without a version.

        The api builds the indexes by tenant again on a server that was emptied, as it is between tests.
        """
        words = [line.split(" ") for line in self._seen if job_id in line]
        names = [line[1].rpartition("_")[0] if line[0] == "FCALL" else line[0] for line in words]
        return [name for name in names if name not in {"finish", "index_tenants"}]


@asynccontextmanager
async def watched(puppet: Puppet) -> AsyncIterator[Watched]:
    """Watch the server; at the end of the block all its commands have been seen."""
    kept, marker = Watched(), "the last command"

    async def listen() -> None:
        async for line in monitor.listen():
            if marker in line["command"]:
                return
            kept.add(line)

    async with puppet.store.client.monitor() as monitor:
        listener = asyncio.create_task(listen())
        yield kept
        await puppet.store.client.echo(marker)
        await asyncio.wait_for(listener, 20)


async def test_an_asynchronous_submit_looks_once(http: httpx.AsyncClient, puppet: Puppet) -> None:
    async with watched(puppet) as seen:
        job = (await http.post("/v1/jobs", json={"input": INPUT})).json()
    assert job["position"] == 0
    assert seen.of(job["id"]) == ["accept", "look"]


@pytest.mark.parametrize("result", [b'{"a":1}', LARGE], ids=["small", "large"])
async def test_a_submit_that_waits_for_the_end_reads_once(
    http: httpx.AsyncClient, puppet: Puppet, result: bytes
) -> None:
    async with watched(puppet) as seen:
        asked = asyncio.create_task(http.post("/v1/jobs?wait=10", json={"input": INPUT}))
        await puppet.succeed(await puppet.take(), result)
        job = (await asked).json()
    assert job["result"]
    assert seen.of(job["id"]) == ["accept", "HMGET"]


async def test_a_submit_with_a_time_limit_looks_before_it_waits(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    async with watched(puppet) as seen:
        body = {"input": INPUT, "expires_in_s": 100}
        asked = asyncio.create_task(http.post("/v1/jobs?wait=10", json=body))
        await puppet.succeed(await puppet.take())
        job = (await asked).json()
    assert seen.of(job["id"]) == ["accept", "look", "HMGET"]


async def test_a_job_and_its_result_are_one_read(http: httpx.AsyncClient, puppet: Puppet) -> None:
    job = (await http.post("/v1/jobs", json={"input": INPUT})).json()
    await puppet.succeed(await puppet.take(), b'{"a":1}')
    async with watched(puppet) as seen:
        got = (await http.get(job["links"]["status_url"])).json()
    assert got["result"] == {"a": 1}
    assert seen.of(job["id"]) == ["HMGET"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_reads_nothing(http: httpx.AsyncClient, puppet: Puppet, stream: bool) -> None:
    async with watched(puppet) as seen:
        asked = asyncio.create_task(http.post(CHAT, json=INPUT | {"stream": stream}))
        claim = await puppet.take()
        await puppet.succeed(claim, b'{"a":1}')
        assert (await asked).status_code == 200
    assert seen.of(claim.id) == ["accept"]


async def test_a_call_with_a_large_result_reads_it(http: httpx.AsyncClient, puppet: Puppet) -> None:
    async with watched(puppet) as seen:
        asked = asyncio.create_task(http.post(CHAT, json=INPUT))
        claim = await puppet.take()
        await puppet.succeed(claim, LARGE)
        assert (await asked).content == LARGE
    assert seen.of(claim.id) == ["accept", "HMGET"]


async def test_a_job_is_accepted_although_redis_cannot_say_where_it_stands(
    http: httpx.AsyncClient, puppet: Puppet
) -> None:
    spoiled = puppet.store.keys("active_bulk", puppet.pool)
    await puppet.store.client.set(spoiled, "not what it was")
    got = await http.post("/v1/jobs", json={"input": INPUT, "expires_in_s": 100})
    await puppet.store.client.delete(spoiled)
    job = got.json()
    assert (got.status_code, job["state"], job["position"], job["warnings"]) == (202, "queued", None, [])
    assert (await puppet.take()).id == job["id"]
