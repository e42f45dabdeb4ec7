"""A real api, a client of it, and a worker on strings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.puppet import Puppet


@pytest.fixture
def api(broker_settings: BrokerSettings) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, max_body_bytes=4096, sse_ping_s=0.2) as server:
        yield server


@pytest_asyncio.fixture
async def http(api: ApiServer) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as client:
        yield client


@pytest_asyncio.fixture
async def puppet(store: JobStore) -> Puppet:
    """A live worker that serves the model ``puppet``."""
    puppet = Puppet(store)
    await puppet.live()
    return puppet
