"""Workers whose models sleep: they count as live, claim nothing, and estimates know when they wake."""

from __future__ import annotations

from typing import Any

import pytest

from broker.catalogue import Catalogue
from broker.jobs import JobStore
from jobs.lanes import Lane
from jobs.model import JobSpec
from jobs.worker_states import WorkerState
from tests.support import new_id

pytestmark = pytest.mark.asyncio


async def beat(store: JobStore, worker: str, state: WorkerState, pool: str = "default", **info: Any) -> None:
    said = {"name": f"{worker}@host", "pool": pool, "models": ["m"], "capacity": 4, "bulk_capacity": 3}
    said |= {"state": state, **info}
    await store.register(worker, said, {"m": {"card": {"id": "m"}}})
    await store.heartbeat(worker, first=True, info=said)


def spec() -> JobSpec:
    return JobSpec(id=new_id(), endpoint="/v1/completions", model="m", body=b"{}", tenant="a")


@pytest.mark.parametrize("state", [WorkerState.ASLEEP, WorkerState.WAKING])
async def test_an_estimate_knows_when_the_model_wakes(store: JobStore, state: WorkerState) -> None:
    await beat(store, "one", state, wake_ms=8000)
    await beat(store, "two", WorkerState.ASLEEP, wake_ms=9000)
    assert await store.outlook("default", Lane.NORMAL, "a") == (0, 8000)
    assert await store.outlook("default", Lane.BULK, "a") == (0, 8000)
    facts = await store.look_ahead("default", Lane.NORMAL, "a")
    assert (facts.slots, facts.bulk_slots) == (8, 6)
    (view,) = await store.queues(["default"])
    assert view.slots == 0

    await beat(store, "two", WorkerState.READY)
    assert await store.outlook("default", Lane.NORMAL, "a") == (0, 0)


async def test_a_model_that_sleeps_is_served_and_one_that_is_awake_is_preferred(store: JobStore) -> None:
    catalogue = Catalogue(store)
    await beat(store, "one", WorkerState.ASLEEP, "slow")
    await catalogue.refresh()
    (found,) = catalogue.ranked("m")
    assert (found.pool, catalogue.live(found)) == ("slow", True)
    assert catalogue.has_worker

    await beat(store, "two", WorkerState.READY, "zebra")
    await catalogue.refresh()
    assert [one.pool for one in catalogue.ranked("m")] == ["zebra", "slow"]

    await beat(store, "two", WorkerState.DRAINING, "zebra")
    await catalogue.refresh()
    assert [one.pool for one in catalogue.ranked("m")] == ["slow", "zebra"]
