"""A real api, a client of it, and a worker on strings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import pytest_asyncio

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from penstock.server.valkey import EmbeddedServer
from tests.apiserver import ApiServer
from tests.namespaces import check_and_empty, new_namespace, settings_in
from tests.puppet import Puppet


@pytest.fixture(scope="module")
def shared_api(valkey: EmbeddedServer) -> Iterator[ApiServer]:
    """One api for all tests of a module that ask for ``api``."""
    with ApiServer(new_namespace(valkey), max_body_bytes=4096, sse_ping_s=0.2) as server:
        yield server


@pytest.fixture
def broker_settings(request: pytest.FixtureRequest, valkey: EmbeddedServer) -> Iterator[BrokerSettings]:
    """Settings in the shared api's namespace, which each test finds empty, or in one of the test's own."""
    if "shared_api" not in request.fixturenames:
        settings = new_namespace(valkey)
        yield settings
        check_and_empty(settings)
        return
    api: ApiServer = request.getfixturevalue("shared_api")
    yield settings_in(api.settings.redis_url, api.settings.namespace)
    try:
        check_and_empty(api.settings)
    finally:
        api.renew()


@pytest.fixture
def api(shared_api: ApiServer, broker_settings: BrokerSettings) -> ApiServer:
    """An api, as it is after its start but for its metrics."""
    return shared_api


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
