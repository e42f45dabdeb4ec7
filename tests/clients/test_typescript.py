"""The TypeScript SDK: its own tests against a real server, a stream over a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.stream_chunks import Head, Text
from tests.apiserver import ApiServer
from tests.clients.node import run
from tests.coordinators import CoordinatorThread
from tests.integration.batch_fixtures import files_url, ready, start_worker, work
from tests.puppet import Puppet

__all__ = ["files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

HEAD = Head((), '{"choices":[{"index":0,"delta":{"content":', "}}]}")
ALLOWED = {"webhook_allow_http": True, "webhook_allow_private": "127.0.0.0/8"}


@pytest.fixture
def api(broker_settings: BrokerSettings, files_url: str) -> Iterator[ApiServer]:
    settings = {"files_url": files_url, **ALLOWED}
    with (
        CoordinatorThread(broker_settings, batch_chunk_rows=10, **settings),
        ApiServer(broker_settings, sse_ping_s=0.5, **settings) as server,
    ):
        yield server


async def passes(*command: str, url: str) -> str:
    """See that a command of the SDK's folder ends well; return what it said."""
    done = await asyncio.to_thread(run, *command, PENSTOCK_URL=url)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


async def lose_a_worker(store: JobStore) -> None:
    """Serve a model of its own: begin its first job, give it back once there is another one, and end both."""
    puppet = Puppet(store, pool="puppets")
    await puppet.live()
    async with asyncio.TaskGroup() as group:
        beating = group.create_task(beat(puppet))
        first = await puppet.take(60)
        await puppet.say(first, HEAD, Text("void"))
        second = await puppet.take(60)  # the reader has seen the text, and says so by this job
        await puppet.store.release(first, puppet.name, "released")
        first = await puppet.take()
        await puppet.say(first, HEAD, Text("good"))
        await puppet.succeed(first)
        await puppet.succeed(second)
        beating.cancel()


async def beat(puppet: Puppet) -> None:
    """Keep a worker alive."""
    while True:
        await puppet.beat()
        await asyncio.sleep(1)


async def test_vitest(api: ApiServer, store: JobStore, work: Callable) -> None:
    """All of them: against a server with two workers, one of which loses a job."""
    await work(simulated_inter_token_s=0.002)
    said, _ = await asyncio.gather(
        passes("npx", "--no-install", "vitest", "run", "--reporter=default", url=api.url),
        lose_a_worker(store),
    )
    assert "test/live.test.ts" in said
