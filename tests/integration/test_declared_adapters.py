"""Adapters that a pool's settings declare: a real worker takes each source over once, and a wrong one hurts nobody."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.adapters import Adapters
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.adapters import Adapter
from storage.local import LocalStorage
from tests.adapters import write_adapter
from tests.processes import WorkerProcess
from tests.support import eventually
from tests.unit.broker.test_adapter_hub import Hub, hub
from workers.adapters import declared

__all__ = ["hub"]  # a fixture

pytestmark = pytest.mark.asyncio


@pytest.fixture
def work(broker_settings: BrokerSettings, tmp_path: Path) -> Iterator[list[WorkerProcess]]:
    workers: list[WorkerProcess] = []
    yield workers
    for worker in workers:
        worker.close()


async def test_each_source_is_taken_over_once(
    broker_settings: BrokerSettings, store: JobStore, tmp_path: Path, work: list[WorkerProcess]
) -> None:
    good, wrong = write_adapter(tmp_path / "good"), write_adapter(tmp_path / "wrong", use_dora=True)
    adapters = Adapters(store)

    async def start(name: str, **declared: Path) -> WorkerProcess:
        worker = WorkerProcess(
            broker_settings,
            tmp_path / name,
            name,
            adapters_max=2,
            heartbeat_s=0.2,
            adapters={key: str(folder) for key, folder in declared.items()},
            data_dir=str(tmp_path / "data"),
            files_url=str(tmp_path / "files"),
        )
        work.append(worker)
        await eventually(worker.is_ready, 60)
        return worker

    async def known() -> list[Adapter]:
        return await adapters.of("default")

    first = await start("w1", broken=wrong, gone=tmp_path / "nothing", sql=good)
    (record,) = await eventually(known)
    assert (record.name, record.source, record.base) == ("sql", str(good), "tiny")
    await eventually(lambda: "use_dora" in first.log.read_text())
    await eventually(lambda: "there is no folder" in first.log.read_text())

    async def loaded() -> bool:
        return any(row["name"] == "sql" and row["adapter"].get("ready") for row in await store.models())

    await eventually(loaded)
    await adapters.remove("default", "sql")
    other = write_adapter(tmp_path / "other", fill=1)
    await start("w2", sql=good, more=other)  # sql was taken over, and then removed by a person

    assert [one.name for one in await eventually(known)] == ["more"]


async def test_a_hub_that_is_away_is_asked_again_and_keeps_no_other_back(
    store: JobStore, tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared, "_AGAIN_S", 0.05)
    hurried = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr(
        "huggingface_hub.utils._http.time", hurried
    )  # between its tries the client waits for 23 s
    monkeypatch.setattr(Hub, "status", 503)
    adapters = Adapters(store)
    taking = asyncio.create_task(
        declared.take_over(
            {"far": "hf:org/sql", "near": str(write_adapter(tmp_path / "near", fill=1))},
            "default",
            (),
            adapters,
            lambda: LocalStorage(tmp_path / "files"),
            most=10,
            most_bytes=1 << 20,
        )
    )

    async def near() -> bool:
        return [one.name for one in await adapters.of("default")] == ["near"]

    await eventually(near)
    assert not taking.done()
    monkeypatch.setattr(Hub, "status", 200)
    await asyncio.wait_for(taking, 10)
    assert {one.name for one in await adapters.of("default")} == {"far", "near"}
