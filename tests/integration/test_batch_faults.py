"""Workers, apis, engines and storage that fail under a batch: every row is answered once all the same."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
from redis import Redis

from broker.db.keys import Keys
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from coordinator import digests
from tests.apiserver import ApiServer
from tests.batching import create, ended, lines, row
from tests.coordinators import CoordinatorThread
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.integration.test_claims import first_of
from tests.processes import CoordinatorProcess
from tests.s3server import S3Server
from tests.support import eventually

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio

QUICK = {"lease_ttl_s": 60.0, "heartbeat_s": 0.5, "reap_interval_s": 0.3}
"""A lease that a busy machine cannot outlast: who was killed or is frozen is buried instead."""


@pytest.fixture
def broker_settings(broker_settings: BrokerSettings) -> BrokerSettings:
    """What workers have, too."""
    return broker_settings.model_copy(update=QUICK)


async def verified(client: openai.AsyncOpenAI, batch_id: str) -> dict[str, Any]:
    answer = await client.get(f"/batches/{batch_id}/verify", cast_to=object)
    assert isinstance(answer, dict)
    return answer


async def complete(client: openai.AsyncOpenAI, batch_id: str, rows: int, timeout_s: float = 60.0) -> Any:
    """Wait for the end; every row must have been answered, once."""
    batch = await ended(client, batch_id, timeout_s)
    assert batch.status == "completed"
    proof = await verified(client, batch_id)
    assert proof["ok"], proof
    assert proof["total"] == rows
    return batch


def starts(journal: Path) -> int:
    return sum(json.loads(line)["event"] == "start" for line in journal.read_text().splitlines())


def rows_kept(files_url: str, batch_id: str) -> int:
    """How many rows of a running batch are in storage."""
    parts = Path(files_url).glob(f"batches/{batch_id}/parts/*/*")
    return sum(part.read_bytes().count(b"\n") for part in parts)


@pytest.mark.parametrize(
    "window", ["bulk.after_part=kill@2", pytest.param("bulk.before_end=kill@2", marks=pytest.mark.full)]
)
async def test_a_worker_that_dies_costs_only_what_it_had_in_flight(
    client: openai.AsyncOpenAI,
    start_worker: Callable,
    work: Callable,
    store: JobStore,
    files_url: str,
    tmp_path: Path,
    window: str,
) -> None:
    journal = tmp_path / "journal"
    given = {**QUICK, "concurrency": 8, "simulated_inter_token_s": 0.005, "simulated_journal": str(journal)}
    first = start_worker("w1", files_url=files_url, failpoints=window, **given)
    await eventually(lambda: "worker_ready" in first.log.read_text())
    batch = await create(client, [row(n, max_tokens=20) for n in range(120)])
    await asyncio.to_thread(first.wait)
    began, kept = starts(journal), rows_kept(files_url, batch.id)
    assert 0 < kept < 120
    await store.bury(first_of(await store.workers(ended=True), "w1"))
    await work("w2", **given)
    await complete(client, batch.id, 120)
    # What is in storage runs no more. How much is not, such as what ended while a group was written, is a matter of time.
    assert starts(journal) - began == 120 - kept


async def test_a_worker_frozen_between_the_parts_of_a_group_repeats_no_row(
    client: openai.AsyncOpenAI,
    start_worker: Callable,
    work: Callable,
    store: JobStore,
    files_url: str,
    tmp_path: Path,
) -> None:
    """It wakes, and writes the second part, while another worker runs those rows again."""
    first = start_worker(
        "w1", files_url=files_url, failpoints="bulk.before_part=stop@2", **QUICK, concurrency=16
    )
    await eventually(lambda: "worker_ready" in first.log.read_text())
    batch = await create(client, [row(n, max_tokens=-1 if n % 2 else 20) for n in range(10)])
    parts = Path(files_url) / "batches" / batch.id / "parts" / "0000000"
    await eventually(lambda: [path.suffix for path in parts.glob("*")] == [".err"])
    journal = tmp_path / "journal"
    slow = {"concurrency": 16, "simulated_inter_token_s": 0.2, "simulated_journal": str(journal)}
    await store.bury(first_of(await store.workers(ended=True), "w1"))
    await work("w2", **QUICK, **slow)
    await eventually(lambda: journal.exists() and starts(journal) == 5)
    first.signal(signal.SIGCONT)
    await eventually(lambda: any(path.suffix == ".ok" for path in parts.glob("*")))
    assert (await client.batches.retrieve(batch.id)).status == "in_progress"
    done = await complete(client, batch.id, 10)
    assert done.request_counts.to_dict() == {"total": 10, "completed": 5, "failed": 5}
    assert await asyncio.to_thread(first.wait) == 1


async def test_a_worker_that_drains_gives_its_chunk_back(
    client: openai.AsyncOpenAI, work: Callable, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    given = {**QUICK, "concurrency": 4, "simulated_inter_token_s": 0.02, "simulated_journal": str(journal)}
    first = await work("w1", drain_timeout_s=0.2, **given)
    batch = await create(client, [row(n, max_tokens=10) for n in range(40)])

    async def some() -> bool:
        return bool((await client.batches.retrieve(batch.id)).request_counts.completed)

    await eventually(some)
    first.process.terminate()
    assert await asyncio.to_thread(first.wait) == 0
    await work("w2", **given)
    await complete(client, batch.id, 40)
    assert starts(journal) <= 40 + 3


async def test_a_row_under_which_engines_die_is_convicted(client: openai.AsyncOpenAI, work: Callable) -> None:
    rows = [row(n, max_tokens=5) for n in range(30)]
    rows[4] = row("bad", simulate="die")
    lives = 1
    worker = await work("w1", **QUICK, concurrency=4)
    batch = await create(client, rows)
    while (await client.batches.retrieve(batch.id)).status not in {"completed", "failed"}:
        if worker.process.poll() is not None:
            lives += 1
            assert lives < 8
            worker = await work(f"w{lives}", **QUICK, concurrency=4)
        await asyncio.sleep(0.05)
    done = await complete(client, batch.id, 30)
    errors = await lines(client, done.error_file_id)
    assert [line["custom_id"] for line in errors] == ["row-bad"]
    assert errors[0]["response"]["body"]["error"]["code"] == "poisoned"


async def test_rows_that_our_own_code_cannot_finish_end_as_failed(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work(failpoints="bulk.after_row=raise@3+", concurrency=4)
    batch = await create(client, [row(n, max_tokens=5) for n in range(8)])
    done = await complete(client, batch.id, 8)
    assert done.request_counts.to_dict() == {"total": 8, "completed": 2, "failed": 6}
    errors = [line["response"]["body"]["error"] for line in await lines(client, done.error_file_id)]
    assert {error["code"] for error in errors} == {"internal_error"}


async def test_a_row_that_the_engines_own_code_cancels_ends_as_failed(
    client: openai.AsyncOpenAI, work: Callable
) -> None:
    await work(concurrency=4)
    batch = await create(client, [row(1), row(2, simulate="interrupt")])
    done = await complete(client, batch.id, 2)
    assert done.request_counts.to_dict() == {"total": 2, "completed": 1, "failed": 1}


@pytest.mark.parametrize(
    "window",
    [
        pytest.param("bulk.after_plan=kill", marks=pytest.mark.full),
        "bulk.before_turn=kill@4",
        pytest.param("bulk.after_files=kill", marks=pytest.mark.full),
    ],
)
async def test_a_coordinator_that_dies_is_followed_by_another(
    broker_settings: BrokerSettings, work: Callable, files_url: str, tmp_path: Path, window: str
) -> None:
    given: dict[str, Any] = {"files_url": files_url, "batch_chunk_rows": 10, "batch_lease_s": 1.5}
    await work("w1", **QUICK)
    log = tmp_path / "coordinator.log"
    first = CoordinatorProcess(broker_settings, log, failpoints=window, **given)
    try:
        with ApiServer(broker_settings, files_url=files_url) as api:
            async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
                batch = await create(client, [row(n) for n in range(40)])
                assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
                with CoordinatorThread(broker_settings, **given):
                    done = await complete(client, batch.id, 40)
                assert len(await lines(client, done.output_file_id)) == 40
                purposes = [file.purpose async for file in client.files.list()]
                assert sorted(purposes) == ["batch", "batch_output"]
    finally:
        first.close()


async def test_batches_do_not_mind_the_api(
    broker_settings: BrokerSettings, work: Callable, files_url: str
) -> None:
    """No api is there while a batch runs; the next one finds it done."""
    await work("w1", **QUICK)
    with CoordinatorThread(broker_settings, files_url=files_url, batch_chunk_rows=10) as coordinator:
        with ApiServer(broker_settings, files_url=files_url) as api:
            async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
                batch = await create(client, [row(n) for n in range(40)])
        keys = Keys(broker_settings.namespace)
        with Redis.from_url(broker_settings.redis_url, decode_responses=True) as redis:
            await eventually(lambda: redis.hget(keys("batch", batch.id), "status") == "completed", 30)
        assert coordinator.metrics.accepted.labels("bulk")._value.get() == 4
        with ApiServer(broker_settings, files_url=files_url) as api:
            async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
                await complete(client, batch.id, 40)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes; root may mount one, others in a namespace of their own would not be seen here."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting needs root: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all room that is left there; return the file that has it."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as out:
        for size in (65536, 4096, 512, 1):
            with suppress(OSError):
                while True:
                    out.write(b"x" * size)
    return filler


async def held(client: openai.AsyncOpenAI, batch_id: str, reason: str, timeout_s: float = 20.0) -> None:
    """Wait until a batch is paused for a reason."""

    async def paused() -> bool:
        now = (await client.batches.retrieve(batch_id)).to_dict()
        return bool(now["paused"]) and now["pause_reason"] == reason

    await eventually(paused, timeout_s)


async def test_a_full_temporary_directory_pauses_the_validation(
    client: openai.AsyncOpenAI, work: Callable, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SPILL_BYTES", 24 * 4)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    await work("w1", **QUICK)
    filler = fill(small_disk)
    batch = await create(client, [row(n, max_tokens=1) for n in range(200)])
    await held(client, batch.id, "storage_full")
    assert (await client.batches.retrieve(batch.id)).status == "validating"
    filler.unlink()
    done = await complete(client, batch.id, 200)
    assert done.to_dict()["paused"] is False


async def test_a_batch_that_cannot_be_advanced_says_so_and_is_tried_again(
    broker_settings: BrokerSettings, work: Callable, files_url: str
) -> None:
    given = {"files_url": files_url, "batch_chunk_rows": 10, "batch_lease_s": 1.0}
    await work("w1", **QUICK, concurrency=4, simulated_inter_token_s=0.1)
    with CoordinatorThread(broker_settings, **given), ApiServer(broker_settings, files_url=files_url) as api:
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as client:
            batch = await create(client, [row(n, max_tokens=1 if n < 4 else 600) for n in range(10)])

            async def some() -> bool:
                return bool((await client.batches.retrieve(batch.id)).request_counts.completed)

            await eventually(some)
            part = min((Path(files_url) / "batches" / batch.id / "parts" / "0000000").iterdir())
            whole = part.read_bytes()
            part.write_bytes(whole + b"not a line\n")
            await client.batches.cancel(batch.id)
            await held(client, batch.id, "internal_error")
            assert (await client.batches.retrieve(batch.id)).status == "cancelling"
            part.write_bytes(whole)
            done = await ended(client, batch.id)
            assert (done.status, done.to_dict()["paused"]) == ("cancelled", False)
            assert (await verified(client, batch.id))["ok"]


class TestFullDisk:
    @pytest.fixture
    def files_url(self, small_disk: Path) -> str:
        return str(small_disk / "files")

    async def test_the_batch_pauses_and_goes_on(
        self, client: openai.AsyncOpenAI, work: Callable, small_disk: Path
    ) -> None:
        await work("w1", **QUICK, concurrency=4, simulated_inter_token_s=0.01)
        batch = await create(client, [row(n, max_tokens=10) for n in range(80)])

        async def some() -> bool:
            return bool((await client.batches.retrieve(batch.id)).request_counts.completed)

        await eventually(some)
        filler = fill(small_disk)
        await held(client, batch.id, "storage_full")
        with pytest.raises(openai.APIStatusError) as full:
            await client.files.create(file=("x", b"x" * 100_000), purpose="batch")
        assert (full.value.status_code, full.value.code) == (507, "storage_full")
        filler.unlink()
        done = await complete(client, batch.id, 80)
        assert done.to_dict()["paused"] is False


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


class TestS3:
    @pytest.fixture
    def storage(self, s3: S3Server) -> Iterator[dict[str, object]]:
        yield s3.settings(uuid.uuid4().hex[:8])
        s3.fault, s3.delay_s = None, 0.0

    @pytest.fixture
    def api(self, broker_settings: BrokerSettings, storage: dict[str, object]):
        with (
            CoordinatorThread(broker_settings, batch_chunk_rows=10, **storage),
            ApiServer(broker_settings, **storage) as server,
        ):
            yield server

    async def test_errors_and_slowness_in_mid_run(
        self, client: openai.AsyncOpenAI, ready: Callable, storage: dict[str, object], s3: S3Server
    ) -> None:
        await ready("w1", **QUICK, **storage, concurrency=4, simulated_inter_token_s=0.01)
        batch = await create(client, [row(n, max_tokens=10) for n in range(80)])

        async def done() -> int:
            return int((await client.batches.retrieve(batch.id)).request_counts.completed)

        await eventually(done)
        s3.fault = lambda method, path: 500 if "/parts/" in path and method == "PUT" else None
        await held(client, batch.id, "storage_unavailable", 40)
        assert s3.refused
        before = await done()
        s3.fault, s3.delay_s = None, 0.05

        async def goes_on() -> bool:
            return await done() > before

        await eventually(goes_on, 40)
        s3.delay_s = 0.0
        await complete(client, batch.id, 80)

    async def test_a_chunk_that_waits_for_storage_keeps_no_other_bulk_job_waiting(
        self, client: openai.AsyncOpenAI, ready: Callable, storage: dict[str, object], s3: S3Server
    ) -> None:
        await ready("w1", **QUICK, **storage, concurrency=4)
        await client.post("/queues/default/pause", cast_to=object)
        batch = await create(client, [row(n, max_tokens=10) for n in range(40)])

        async def planned() -> bool:
            return (await client.batches.retrieve(batch.id)).status == "in_progress"

        await eventually(planned)
        s3.fault = lambda method, path: 500 if "/files/" in path and method == "GET" else None
        await client.post("/queues/default/resume", cast_to=object)
        await held(client, batch.id, "storage_unavailable", 40)
        asked = {"priority": "bulk", "input": row("alone", max_tokens=5)["body"]}
        jobs: list[Any] = [await client.post("/jobs", body=asked, cast_to=object) for _ in range(6)]

        async def ran() -> bool:
            found: list[Any] = [await client.get(f"/jobs/{job['id']}", cast_to=object) for job in jobs]
            return all(one["state"] == "succeeded" for one in found)

        await eventually(ran)
        assert (await client.batches.retrieve(batch.id)).request_counts.completed == 0
        s3.fault = None
        await complete(client, batch.id, 40)
