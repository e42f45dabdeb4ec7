"""Workers that load other weights by order, when the rollout is aborted under them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker.jobs import JobStore
from broker.registry import RELOAD
from broker.rollouts import Rollouts
from jobs.rollouts import Mode, Rollout, Version
from penstock.server.in_place import GoneError, Weights
from tests.puppet import Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio

OLD, NEW = "old-weights", "new-weights"


class Reloading(Puppet):
    """A worker whose orders the test carries out."""

    async def order(self) -> dict[str, Any]:
        """Return the last order; empty: there is none."""
        word = (await self.beat()).get(RELOAD)
        found: dict[str, Any] = {} if word is None else json.loads(word)
        return found

    async def ordered(self, model: str) -> dict[str, Any]:
        """Wait for the order to load a model's weights."""

        async def has() -> bool:
            return (await self.order()).get("model") == model

        await eventually(has)
        return await self.order()

    async def loaded(self, order: dict[str, Any]) -> None:
        """Say that an order is carried out."""
        said = {"id": order["id"], "model": order["model"], "error": None}
        await self.live(weights=said)


@pytest.fixture
def rollouts(store: JobStore) -> Rollouts:
    return Rollouts(store)


@pytest.fixture
def weights(store: JobStore, rollouts: Rollouts) -> Weights:
    async def keep() -> None:
        pass

    def model_of(version: Version) -> str:
        return version.model or OLD

    return Weights(store, rollouts, keep, model_of, 5.0)


async def begun(rollouts: Rollouts) -> Rollout:
    record = await rollouts.get("default")
    started = await rollouts.write(record, record.start(NEW, (), Mode.IN_PLACE))
    assert started
    return started


async def test_a_worker_that_still_drains_when_it_is_aborted_returns(
    store: JobStore, rollouts: Rollouts, weights: Weights
) -> None:
    worker = Reloading(store)
    await worker.live()
    record = await begun(rollouts)
    assert record.target
    replaces = asyncio.create_task(weights.replace(record, record.target))
    first = await worker.ordered(NEW)
    aborted = await rollouts.write(record, record.aborted())
    assert aborted
    with pytest.raises(GoneError):
        await replaces
    back = asyncio.create_task(weights.put_back(record))
    second = await worker.ordered(OLD)
    await worker.loaded(first)  # one after another
    await worker.loaded(second)
    await asyncio.wait_for(back, 10)


async def test_a_worker_is_put_back_after_the_death_of_who_gave_the_order(
    store: JobStore, rollouts: Rollouts, weights: Weights
) -> None:
    worker = Reloading(store)
    record = await begun(rollouts)
    aborted = await rollouts.write(record, record.aborted())
    assert aborted
    await worker.loaded({"id": "the dead one's", "model": NEW})
    back = asyncio.create_task(weights.put_strays_back(aborted))
    await worker.loaded(await worker.ordered(OLD))
    await asyncio.wait_for(back, 10)
    await weights.put_strays_back(aborted)  # nothing is left to do
