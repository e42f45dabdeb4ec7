"""Batches that name a LoRA adapter: they wait for it as for a model, and are refused as requests are."""

from __future__ import annotations

import openai
import pytest

from broker.adapters import Adapters
from tests.adapters import add, an_adapter
from tests.batching import create, ended, row
from tests.integration.batch_fixtures import api, client, files_url
from tests.puppet import Puppet
from tests.support import eventually

__all__ = ["api", "client", "files_url"]
pytestmark = pytest.mark.asyncio


async def test_batches_of_adapters(client: openai.AsyncOpenAI, puppet: Puppet) -> None:
    adapters = Adapters(puppet.store)
    for one in (an_adapter("sql"), an_adapter("broken"), an_adapter("theirs", tenant="acme")):
        await add(adapters, one)
    (broken,) = [one for one in await adapters.of("default") if one.name == "broken"]
    await adapters.failed(puppet.name, broken, "its rank is 64")
    refused = {}
    for name in ("broken", "theirs", "none"):
        batch = await ended(client, (await create(client, [row(1, model=name)])).id)
        (error,) = batch.errors.data
        assert error.code == "model_not_found"
        refused[name] = error.message
    assert "no worker can load: its rank is 64" in refused["broken"]
    assert refused["theirs"] == refused["none"].replace("none", "theirs")
    waiting = await create(client, [row(n, model="sql") for n in range(3)])

    async def submitted() -> bool:
        return (await client.batches.retrieve(waiting.id)).status == "in_progress"

    await eventually(submitted)
    assert (await puppet.take()).model == "sql"
