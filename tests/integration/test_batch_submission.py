"""How many chunks of a batch are submitted at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from coordinator.submit import MOST_PER_WORKER
from tests.apiserver import ApiServer
from tests.batching import jsonl, row
from tests.coordinators import CoordinatorThread
from tests.puppet import MODEL, Puppet
from tests.support import eventually

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(
    ("slots", "rows_of_a_chunk", "chunks"),
    [
        (1, 5, 2),  # one runs, one waits
        (16, 12, 4),  # while the last rows of a chunk run, those of others fill the slots
        (500, 1, MOST_PER_WORKER),
        (8, 1, 2),  # calls keep the other slots, whatever the batch's lane
    ],
)
async def test_every_slot_finds_rows_while_the_last_of_a_chunk_run(
    broker_settings: BrokerSettings,
    store: JobStore,
    tmp_path: Path,
    slots: int,
    rows_of_a_chunk: int,
    chunks: int,
) -> None:
    puppet = Puppet(store)
    await puppet.live(capacity=slots)
    files = str(tmp_path / "files")
    with (
        CoordinatorThread(broker_settings, files_url=files, batch_chunk_rows=rows_of_a_chunk),
        ApiServer(broker_settings, files_url=files) as api,
    ):
        async with api.client() as http:
            data = jsonl([row(n, model=MODEL) for n in range(60)])
            sent = await http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)})
            body = {
                "input_file_id": sent.json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            }
            batch = (await http.post("/v1/batches", json=body)).raise_for_status().json()

            async def submitted() -> bool:
                return await puppet.waiting() == chunks

            await eventually(submitted)
            await puppet.take()  # it runs, and counts as before: no further one is submitted
            await http.post(f"/v1/batches/{batch['id']}/pause")
            await http.post(f"/v1/batches/{batch['id']}/resume")
            assert await puppet.waiting() == chunks - 1
