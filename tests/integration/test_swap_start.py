"""The start of a member of a swap group: its lease is prolonged while its model loads, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from broker.db.client import connect
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.placement import Device
from monitoring.metrics import WorkerMetrics
from workers.engines.base import EngineStartError
from workers.process.host import EngineHost
from workers.settings import WorkerSettings
from workers.swapping.boarding import load_under

LEASE = "lease before the start"


class Broken:
    """An engine that cannot load its model, and notes who still works as it stops."""

    name = "broken"

    def __init__(self) -> None:
        self.beside: set[str] = set()

    async def start(self) -> None:
        self.beside = tasks()
        raise EngineStartError("no such model")

    async def stop(self) -> None:
        self.beside = tasks()


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


def test_a_failed_start_prolongs_no_lease_any_more(broker_settings: BrokerSettings) -> None:
    engine = Broken()
    some: Any = engine
    settings = WorkerSettings(
        **broker_settings.model_dump(include={"redis_url", "namespace"}), engine="simulated", swap_group="g"
    )
    host = EngineHost(settings, some, Device(), WorkerMetrics(CollectorRegistry()))
    with pytest.raises(EngineStartError, match="no such model"):
        host.start(dict)
    assert LEASE in engine.beside
    host.ending.finish()
    assert LEASE not in engine.beside

    async def leases() -> list[Any]:
        store = JobStore(connect(broker_settings.redis_url), broker_settings)
        found = list(await store.client.zrange(store.keys("leases"), 0, -1))
        await store.aclose()
        return found

    assert asyncio.run(leases()) == []


def test_a_load_whose_lease_is_not_prolonged_is_given_up() -> None:
    ended = []

    async def load() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def lease() -> None:
        raise ValueError("full")

    async def start() -> None:
        await load_under(asyncio.create_task(lease()), load())

    with pytest.raises(EngineStartError, match="given up: ValueError"):
        asyncio.run(start())
    assert ended
