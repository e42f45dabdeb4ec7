"""A coordinator waits for events: batches that nothing happens to cost Redis next to nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.batching import create, ended, row
from tests.coordinators import CoordinatorThread
from tests.integration.batch_fixtures import api, files_url, ready, start_worker, work
from tests.puppet import MODEL, Puppet
from tests.support import eventually

__all__ = ["api", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

WAITING = 30
OVER_S = 3.0
MOST = 2000
"""Commands in that time, of which the api needs half. Five turns a second of each batch took 6,000 more."""

MOST_LOOKS = 30
"""In a second; twenty are due."""
COMMANDS_OF_A_LOOK = 6


@pytest_asyncio.fixture
async def client(api: ApiServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_waiting_batches_are_not_polled(client: openai.AsyncOpenAI, store: JobStore) -> None:
    await Puppet(store).live()
    batches = [await create(client, [row(n, model=MODEL)]) for n in range(WAITING)]

    async def all_wait() -> bool:
        return await store.client.hget(store.keys("pool", "default"), "depth:bulk") == str(WAITING)

    async def commands() -> int:
        return int((await store.client.info("stats"))["total_commands_processed"])

    await eventually(all_wait)
    before = await commands()
    await asyncio.sleep(OVER_S)
    done = await commands() - before
    assert done < MOST, done
    await asyncio.gather(*(client.batches.cancel(batch.id) for batch in batches))
    for batch in batches:
        assert (await ended(client, batch.id)).status == "cancelled"


async def test_the_end_of_a_chunk_is_an_event(
    client: openai.AsyncOpenAI, work: Callable[..., Awaitable[Any]]
) -> None:
    """A batch of more chunks than are submitted at once ends long before the look that a lost event would need."""
    await work()
    batch = await create(client, [row(n, max_tokens=2) for n in range(60)])
    assert (await ended(client, batch.id, timeout_s=15.0)).request_counts.completed == 60


async def test_the_bell_of_others_is_answered_by_a_look_now_and_then(
    store: JobStore, broker_settings: BrokerSettings, files_url: str
) -> None:
    """It rings at each commit of a batch, in every coordinator; most of them are not the batch's."""
    channel, ring = store.keys("look_channel"), msgspec.msgpack.encode(["batch_of_another"])

    async def commands() -> int:
        return int((await store.client.info("stats"))["total_commands_processed"])

    async def heard() -> bool:
        return bool(await store.client.publish(channel, ring))

    with CoordinatorThread(broker_settings, files_url=files_url):
        await eventually(heard)
        before, rings, began_s = await commands(), 0, time.monotonic()
        while time.monotonic() < began_s + 1.0 or rings <= 2 * MOST_LOOKS:
            await store.client.publish(channel, ring)
            rings += 1
            await asyncio.sleep(0.001)
        done = await commands() - before - rings
        took_s = time.monotonic() - began_s
    assert done < took_s * MOST_LOOKS * COMMANDS_OF_A_LOOK, (done, rings, took_s)
