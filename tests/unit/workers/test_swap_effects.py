"""What a swap, and an order for other weights, do to a worker: a worker that ends is left to its end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from jobs.facts import EngineStats
from monitoring.metrics import WorkerMetrics
from workers.admission.gate import Gate
from workers.admission.pace import Pace
from workers.admission.policy import LaneController
from workers.process.reloads import Reloads
from workers.swapping.effects import Effects

pytestmark = pytest.mark.asyncio

NONE: Any = None


class Weights:
    """An engine that may load other weights, and notes whether it did."""

    in_process = True

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, 0.0)

    async def check_weights(self, model: str) -> None:
        """Any will do."""

    async def reload(self, model: str) -> None:
        self.loaded.append(model)


class Stopped:
    """What Celery's consumer is once Celery has stopped: it never rests. The worker's end begins as it is woken."""

    rests = 0

    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def undelivered(self) -> frozenset[str]:
        return frozenset()

    def leaves(self) -> bool:
        return self.woken > 0


def effects_of(engine: Weights, consumer: Stopped) -> Effects:
    some: Any = engine
    gate = Gate(some, LaneController(4, 0.0), Pace(4))
    return Effects(
        some, gate, NONE, WorkerMetrics(CollectorRegistry()), lambda: consumer, 1.0, leaves=consumer.leaves
    )


async def test_a_swap_that_meets_the_workers_end_leaves_its_jobs_to_it() -> None:
    async with asyncio.timeout(20):
        assert await effects_of(Weights(), Stopped()).free_devices() is None


async def test_an_order_for_other_weights_that_meets_the_workers_end_is_refused() -> None:
    engine, consumer, announced = Weights(), Stopped(), asyncio.Event()
    some: Any = engine
    reloads = Reloads(some, announced.set, lambda: False)
    runs = asyncio.create_task(reloads.run(effects_of(engine, consumer)))
    for order in ("meets it", "comes later"):
        reloads.order(json.dumps({"id": order, "model": "b", "drain_s": 1.0}))
        async with asyncio.timeout(20):
            while reloads.said.get("weights", {}).get("id") != order:
                announced.clear()
                await announced.wait()
        assert "the worker ends" in reloads.said["weights"]["error"]
        assert not reloads.busy
    assert not engine.loaded
    runs.cancel()
