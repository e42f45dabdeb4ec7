"""LoRA adapters through api, queue and two real workers: by name, on demand, at whoever has them, and while they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio

from broker.adapters import Adapters
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from storage.local import LocalStorage
from tests.apiserver import ApiServer
from tests.integration.test_affinity import LEFT_MS
from tests.processes import WorkerProcess
from tests.support import eventually
from tests.tiny_adapters import declare, tiny_adapter

pytestmark = pytest.mark.asyncio


class Served(NamedTuple):
    """An api with two workers, each of which holds two adapters."""

    http: httpx.AsyncClient
    workers: list[WorkerProcess]
    adapters: Adapters
    storage: LocalStorage


@pytest_asyncio.fixture
async def served(broker_settings: BrokerSettings, store: JobStore, tmp_path: Path) -> AsyncIterator[Served]:
    workers = [
        WorkerProcess(
            broker_settings,
            tmp_path / name,
            name,
            adapters_max=1,
            adapter_max_rank=8,
            heartbeat_s=0.2,
            lease_ttl_s=60,
            simulated_inter_token_s=0.002,
            data_dir=str(tmp_path / "data"),
            files_url=str(tmp_path / "files"),
            log_level="debug",
        )
        for name in ("w1", "w2")
    ]
    try:
        for worker in workers:
            await eventually(worker.is_ready, 60)
        with ApiServer(broker_settings, catalogue_refresh_s=0.1) as api:
            async with api.client() as client:
                yield Served(client, workers, Adapters(store), LocalStorage(tmp_path / "files"))
    finally:
        for worker in workers:
            worker.close()


async def chat(served: Served, model: str, tokens: int = 8, **fields: Any) -> httpx.Response:
    said = [{"role": "user", "content": "hi"}]
    body = {"model": model, "messages": said, "max_tokens": tokens, **fields}
    return await served.http.post("/v1/chat/completions", json=body, timeout=60)


async def text(served: Served, model: str, tokens: int = 8) -> str:
    answer = await chat(served, model, tokens)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    said: str = answer.json()["choices"][0]["message"]["content"]
    return said


async def listed(served: Served) -> set[str]:
    return {card["id"] for card in (await served.http.get("/v1/models")).json()["data"]}


async def loaded(served: Served) -> list[list[str]]:
    """Return which adapters each worker has, by its last heartbeat."""
    workers = (await served.http.get("/v1/workers")).json()["data"]
    return [one["adapters"] for one in sorted(workers, key=lambda one: one["name"])]


async def test_adapters_are_served_replaced_and_removed_under_load(served: Served, tmp_path: Path) -> None:
    await declare(served.adapters, served.storage, tiny_adapter(tmp_path / "a1", 1), "a")
    old = await text(served, "a")  # accepted and loaded although no worker has said yet that it has it
    assert old != await text(served, "simulated")

    async def is_listed() -> bool:
        return "a" in await listed(served)

    await eventually(is_listed)
    streamed = await chat(served, "a", stream=True)
    assert '"model":"a"' in streamed.text
    long = [asyncio.create_task(text(served, "a", 400)) for _ in range(6)]
    await asyncio.sleep(0)
    await declare(served.adapters, served.storage, tiny_adapter(tmp_path / "a2", 2), "a")
    answers = await asyncio.gather(*long)

    async def is_replaced() -> bool:
        return await text(served, "a") != old

    await eventually(is_replaced)
    new = await text(served, "a")

    async def is_loaded() -> bool:
        return any("a" in names for names in await loaded(served))

    await eventually(is_loaded)
    length = min(len(old), len(new))
    assert {one[:length] for one in answers} <= {old[:length], new[:length]}  # and no mixture
    assert await served.adapters.remove("default", "a")

    async def is_gone() -> bool:
        return (await chat(served, "a")).status_code == 404

    await eventually(is_gone)

    async def is_unloaded() -> bool:
        return await loaded(served) == [[], []]

    await eventually(is_unloaded)


async def test_a_broken_adapter_is_refused_with_the_reason(served: Served, tmp_path: Path) -> None:
    await declare(served.adapters, served.storage, tiny_adapter(tmp_path / "big", 1, rank=64), "big")
    early = await chat(served, "big")
    error = early.json()["error"]
    assert (early.status_code, error["code"]) in {(400, "adapter_broken"), (404, "model_not_found")}
    assert "its rank is 64" in error["message"]

    async def is_refused_at_the_door() -> bool:
        return (await chat(served, "big")).status_code == 404

    await eventually(is_refused_at_the_door)
    assert "big" not in await listed(served)
    assert await text(served, "simulated")


async def test_a_job_prefers_the_worker_that_has_its_adapter(served: Served, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        await declare(served.adapters, served.storage, tiny_adapter(tmp_path / name, seed), name)
        await text(served, name)
    homes: dict[str, str] = {}
    quick = 0

    async def run(name: str) -> None:
        nonlocal quick
        body = {"input": {"model": name, "messages": [_HI], "max_tokens": 8}}
        job = (await served.http.post("/v1/jobs", params={"wait": 30}, json=body)).json()
        assert job["state"] == "succeeded", job
        in_time = job["timings"]["queue_ms"] < LEFT_MS
        if in_time:
            assert job["worker"] == homes.get(name, job["worker"])
        quick += in_time
        homes[name] = job["worker"]

    for order in ("ab", "ba") * 6:  # without a preference, whoever waits longest takes the first
        await asyncio.gather(*map(run, order))
    assert quick  # else nothing was shown


async def test_the_other_worker_takes_over(served: Served, tmp_path: Path) -> None:
    await declare(served.adapters, served.storage, tiny_adapter(tmp_path / "a", 1), "a")
    before = await text(served, "a")
    served.workers[0].close()
    assert {await text(served, "a") for _ in range(4)} == {before}


_HI = {"role": "user", "content": "hi"}
