"""Another model for a declared pool, while something waits for the one before. Real Valkey, real api, real coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.adapters import Adapters
from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.failures import FailureCode
from jobs.model import JobError
from jobs.states import JobState
from tests.adapters import add, an_adapter
from tests.apiserver import ApiServer
from tests.batching import jsonl, row
from tests.coordinators import CoordinatorThread
from tests.integration.test_declared_pools import body, declare
from tests.puppet import Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

ROWS = 25


@pytest.fixture
def files(tmp_path: Path) -> str:
    return str(tmp_path / "files")


@pytest.fixture
def api(broker_settings: BrokerSettings, files: str) -> Iterator[ApiServer]:
    with ApiServer(broker_settings, files_url=files) as server:
        yield server


async def paused_batch(http: httpx.AsyncClient, model: str) -> str:
    """Make a batch of which no chunk is submitted: there must be no coordinator. Return its id."""
    data = jsonl([row(n, model=model) for n in range(ROWS)])
    sent = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)})
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = await http.post("/v1/batches", json=asked | {"input_file_id": sent.json()["id"]})
    batch = str(made.raise_for_status().json()["id"])
    (await http.post(f"/v1/batches/{batch}/pause")).raise_for_status()
    return batch


async def validated(http: httpx.AsyncClient, batch: str) -> None:
    """Wait until a batch is checked."""

    async def checked() -> bool:
        return (await http.get(f"/v1/batches/{batch}")).json()["status"] == "in_progress"

    await eventually(checked)


async def refusal(http: httpx.AsyncClient, **more: Any) -> str:
    """Ask for another model, which is refused. Return the reason."""
    error = (await declare(http, status=409, **({"model": "n"} | more)))["error"]
    assert (error["code"], error["param"]) == ("jobs_waiting", "model")
    return str(error["message"])


async def test_a_retry_that_is_not_due_waits_for_the_model(http, broker_settings) -> None:
    await declare(http)
    job = (await http.post("/v1/jobs", json={"model": "m", "input": body()})).json()
    settings = broker_settings.model_copy(update={"retry_base_s": 60.0})
    async with aclosing(JobStore(connect(settings.redis_url), settings)) as store:
        puppet = Puppet(store, "late-1", "chat")
        await puppet.live("m")
        claim = await puppet.take()
        error = JobError(FailureCode.ENGINE_UNAVAILABLE, "for a while")
        assert await store.retry_later(claim, puppet.name, error, 1.0, status=503) is JobState.QUEUED
        await store.bury(puppet.name)
        assert await puppet.waiting() == 0
    assert "1 jobs and 0 rows of batches wait in the pool 'chat' for 'm'" in await refusal(http)
    (await http.post(f"/v1/jobs/{job['id']}/cancel")).raise_for_status()
    await declare(http, model="n")


@pytest.mark.parametrize("named", ["m", "sql"])
async def test_rows_of_batches_wait_for_the_model(http, store, broker_settings, files, named) -> None:
    """For the model itself, or for an adapter of it."""
    await declare(http)
    before = Puppet(store, "chat-1", "chat")
    await before.live("m")
    assert await add(Adapters(store), an_adapter("sql", pool="chat")) == "added"
    batch = await paused_batch(http, named)
    with CoordinatorThread(broker_settings, files_url=files, batch_chunk_rows=10):
        await validated(http, batch)
    await store.bury(before.name)
    assert await before.waiting() == 0
    assert f"0 jobs and {ROWS} rows of batches wait" in await refusal(http)
    await declare(http, slots=8)  # the same model
    await http.post(f"/v1/batches/{batch}/cancel")
    await declare(http, model="n")


async def test_rows_that_another_pool_can_run_do_not_wait_for_this_one(
    http, store, broker_settings, files
) -> None:
    await declare(http, aliases=[])
    other = Puppet(store, "other-1", "other")
    await other.live("m")
    batch = await paused_batch(http, "m")
    with CoordinatorThread(broker_settings, files_url=files, batch_chunk_rows=10):
        await validated(http, batch)
    await declare(http, model="n", aliases=[])
    await declare(http, model="m", aliases=[])
    await store.bury(other.name)
    await refusal(http, aliases=[])
    await declare(http, model="n", aliases=[], force=True)


async def test_rows_that_only_a_version_of_the_pool_has_wait_for_it(
    http, store, broker_settings, files
) -> None:
    """Its jobs are queued in the pool."""
    await declare(http)
    await Puppet(store, "next-1", "chat-2").live("m", version_of="chat")
    batch = await paused_batch(http, "m")
    with CoordinatorThread(broker_settings, files_url=files, batch_chunk_rows=10):
        await validated(http, batch)
    assert f"0 jobs and {ROWS} rows of batches wait" in await refusal(http)
