"""Batches of different lanes on one worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.batching import create, ended, row
from tests.coordinators import CoordinatorThread
from tests.integration.batch_fixtures import client, files_url, ready, start_worker, work
from tests.support import eventually

__all__ = ["client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio


@pytest.fixture
def api(broker_settings: BrokerSettings, files_url: str) -> Iterator[ApiServer]:
    """An api that makes one chunk of each batch here."""
    with (
        CoordinatorThread(broker_settings, files_url=files_url, batch_chunk_rows=200),
        ApiServer(broker_settings, files_url=files_url) as server,
    ):
        yield server


def started(journal: Path) -> list[str]:
    """Return the rows that went onto the engine, in order."""
    events = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return [event["job"] for event in events if event["event"] == "start"]


async def test_rows_of_a_higher_lane_do_not_take_turns_with_those_of_a_lower(
    client: openai.AsyncOpenAI, work: Callable, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    await work(concurrency=8, simulated_inter_token_s=0.02, simulated_journal=str(journal))
    bulk = await create(client, [row(n, max_tokens=10) for n in range(199)])
    await eventually(lambda: len(started(journal)) >= 12)
    high = await create(client, [row(n, max_tokens=10) for n in range(10)], extra_body={"priority": "high"})
    assert (await ended(client, high.id)).request_counts.completed == 10
    # Cancelled while it had rows left: it is long enough that the other has ended first on a busy machine, too.
    assert (await client.batches.cancel(bulk.id)).status == "cancelling"
    assert (await ended(client, bulk.id)).status == "cancelled"
    names = [high.id.removeprefix("batch_") in job for job in started(journal)]
    first, last = names.index(True), len(names) - 1 - names[::-1].index(True)
    assert names.count(True) == 10
    assert names[first : last + 1].count(False) <= 1
