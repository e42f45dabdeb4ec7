"""A coordinator that has lost a batch's lease and does not know it yet: it asks now and then, and writes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai
import pytest
from prometheus_client import CollectorRegistry

from broker.batch_steps import BatchSteps
from broker.jobs import JobStore
from coordinator.context import Context
from coordinator.driver import Driver
from coordinator.settings import CoordinatorSettings
from jobs.batch_model import Batch
from jobs.lanes import Lane
from monitoring.metrics import AcceptedJobs
from tests.batching import create, row
from tests.integration.batch_fixtures import client, files_url
from tests.integration.test_coordinator import api
from tests.puppet import MODEL, Puppet
from tests.support import eventually

__all__ = ["api", "client", "files_url"]  # fixtures

pytestmark = pytest.mark.asyncio

OVER_S = 1.0
MOST = 20
"""Turns in that time; five are due. Without a rest it was hundreds."""


class CountedSteps(BatchSteps):
    """Counts how often a driver reads its batch: once in each turn."""

    turns = 0

    async def get(self, batch_id: str, *, owner: str | None = None) -> Batch | None:
        self.turns += 1
        return await super().get(batch_id, owner=owner)


@pytest.mark.parametrize("status", ["validating", "closing", "finalizing", "cancelling"])
async def test_who_lost_the_lease_neither_hurries_nor_writes(
    client: openai.AsyncOpenAI, store: JobStore, files_url: str, status: str
) -> None:
    await Puppet(store).live()
    batch_id = (await create(client, [row(1, model=MODEL)])).id
    record = store.keys("batch", batch_id)
    if status == "closing":
        await store.client.hset(record, "expires", 1)
    else:
        await store.client.hset(record, "status", status)
    metrics = AcceptedJobs(CollectorRegistry(), list(Lane))
    context = Context.over(store, CoordinatorSettings(files_url=files_url), "late", metrics)
    context.batches = steps = CountedSteps(store, 60.0, 60.0)
    assert await steps.lease(batch_id, "other", 60.0)
    before = {path for path in Path(files_url).rglob("*") if path.is_file()}
    driver = Driver(context, batch_id)
    driving = asyncio.create_task(driver.run())
    await eventually(lambda: steps.turns > 1)
    await asyncio.sleep(OVER_S)
    driver.stop()
    await driving
    assert steps.turns < MOST
    assert {path for path in Path(files_url).rglob("*") if path.is_file()} == before
