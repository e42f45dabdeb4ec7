"""An api, a coordinator and workers that share a folder for files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.coordinators import CoordinatorThread
from tests.integration.test_worker import ready, start_worker

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]


@pytest.fixture
def files_url(tmp_path: Path) -> str:
    return str(tmp_path / "files")


@pytest.fixture
def api(broker_settings: BrokerSettings, files_url: str) -> Iterator[ApiServer]:
    with (
        CoordinatorThread(broker_settings, files_url=files_url, batch_chunk_rows=10),
        ApiServer(broker_settings, files_url=files_url, sse_ping_s=0.5) as server,
    ):
        yield server


@pytest_asyncio.fixture
async def client(api: ApiServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def work(ready: Callable, files_url: str) -> Callable:
    """Start a worker with the simulated engine."""

    async def start(name: str = "w1", **settings):
        return await ready(name, files_url=files_url, retry_base_s=0.05, **settings)

    return start
