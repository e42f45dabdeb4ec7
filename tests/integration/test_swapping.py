"""Models that share devices, with real workers: both are served, never at once, and nothing is lost whoever dies when."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from broker.settings import BrokerSettings
from tests.apiserver import ApiServer
from tests.processes import WorkerProcess
from tests.support import eventually

pytestmark = pytest.mark.asyncio

FAST = {
    "swap_group": "g",
    "swap_min_stay_s": 0.3,
    "swap_max_wait_s": 2.0,
    "swap_drain_s": 1.0,
    "simulated_wake_s": 0.1,
    "simulated_inter_token_s": 0.01,
    "heartbeat_s": 0.2,
    "lease_ttl_s": 30.0,
    "reap_interval_s": 0.3,
}


def start(
    settings: BrokerSettings, folder: Path, name: str, *, failpoints: str = "", **more: object
) -> WorkerProcess:
    given: dict[str, Any] = {
        **FAST,
        "model": name,
        "pool": name,
        "simulated_journal": folder / "journal",
        **more,
    }
    return WorkerProcess(settings, folder / f"{name}.log", name, failpoints=failpoints, **given)


@asynccontextmanager
async def group(
    settings: BrokerSettings, workers: Iterable[WorkerProcess]
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an api beside workers, which end with the block."""
    try:
        for worker in workers:
            await eventually(worker.is_ready, 60)
        with ApiServer(settings, reap_interval_s=0.3) as api:
            async with api.client() as client:
                yield client
    finally:
        for worker in workers:
            worker.close()


def request(model: str, tokens: int = 10) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": tokens}


async def call(http: httpx.AsyncClient, model: str, tokens: int = 10) -> None:
    answer = await http.post("/v1/chat/completions", json=request(model, tokens), timeout=60)
    assert (answer.status_code, answer.json().get("model")) == (200, model), answer.text


async def submit(http: httpx.AsyncClient, model: str, tokens: int = 10) -> str:
    job_id: str = (await http.post("/v1/jobs", json={"input": request(model, tokens)})).json()["id"]
    return job_id


async def ended(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    async def over() -> dict[str, Any] | None:
        job: dict[str, Any] = (await http.get(f"/v1/jobs/{job_id}?wait=5")).json()
        return job if job["state"] not in {"queued", "running"} else None

    return await eventually(over, 60)


async def states(http: httpx.AsyncClient) -> dict[str, str]:
    return {one["pool"]: one["state"] for one in (await http.get("/v1/workers")).json()["data"]}


def assert_never_at_once(folder: Path) -> None:
    """By the engines' journals: no request of one worker ran while one of another did."""
    begun: dict[tuple[str, int, int], int] = {}
    runs: list[tuple[int, int, int]] = []
    for line in map(json.loads, (folder / "journal").read_text().splitlines()):
        run = line["job"], line["attempt"], line["pid"]
        if line["event"] == "start":
            begun[run] = line["time_ms"]
        else:
            runs.append((begun.pop(run), line["time_ms"], line["pid"]))
    runs.sort()
    assert len({pid for _, _, pid in runs}) > 1
    latest: dict[int, int] = {}
    for start_ms, end_ms, pid in runs:
        assert all(over <= start_ms for other, over in latest.items() if other != pid)
        latest[pid] = max(end_ms, latest.get(pid, 0))


async def test_two_models_take_turns_and_nothing_is_lost(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    workers = [start(broker_settings, tmp_path, name) for name in ("alpha", "beta")]
    async with group(broker_settings, workers) as http:
        assert {card["id"] for card in (await http.get("/v1/models")).json()["data"]} == {"alpha", "beta"}
        jobs = [await submit(http, model) for model in ("alpha", "beta") for _ in range(3)]
        await asyncio.gather(*(call(http, model) for model in ("alpha", "beta") for _ in range(3)))
        assert {(await ended(http, job))["state"] for job in jobs} == {"succeeded"}
        for _ in range(2):
            for model in ("alpha", "beta"):
                await call(http, model)
                assert sorted((await states(http)).values()) in (["asleep", "ready"], ["ready", "waking"])
        worker = next(one for one in (await http.get("/v1/workers")).json()["data"] if one["pool"] == "beta")
        metrics = httpx.get(worker["metrics_url"]).text
        assert "penstock_swaps_total " in metrics
        assert 'penstock_swap_seconds_count{phase="wake"}' in metrics
    assert_never_at_once(tmp_path)


async def test_a_long_run_goes_back_to_the_queue_and_estimates_know_the_swap(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    workers = [
        start(broker_settings, tmp_path, name, simulated_wake_s=0.5, simulated_inter_token_s=0.05)
        for name in ("alpha", "beta")
    ]
    async with group(broker_settings, workers) as http:
        await call(http, "alpha", 1)
        long = await submit(http, "alpha", 80)  # four seconds, and it may run for less than that
        job = (await http.post("/v1/jobs", json={"input": request("beta", 1)})).json()
        assert job["position"] == 0
        assert job["eta_s"] > 0
        await call(http, "beta", 1)
        assert (await ended(http, job["id"]))["state"] == "succeeded"
        back = await ended(http, long)
        assert back["state"] == "succeeded"
    assert_never_at_once(tmp_path)


@pytest.mark.full
async def test_a_job_longer_than_the_drain_ends_beside_a_busy_model(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    facts: dict[str, Any] = {"swap_drain_s": 0.3, "swap_max_wait_s": 0.5, "simulated_inter_token_s": 0.05}
    workers = [start(broker_settings, tmp_path, name, **facts) for name in ("alpha", "beta")]
    async with group(broker_settings, workers) as http:
        await call(http, "alpha", 1)
        long = asyncio.create_task(ended(http, await submit(http, "alpha", 50)))
        async with asyncio.timeout(30):
            while not long.done():
                await call(http, "beta", 1)
        assert (await long)["state"] == "succeeded"
    assert "swap_gives_back" in (tmp_path / "alpha.log").read_text()
    assert_never_at_once(tmp_path)


@pytest.mark.parametrize(
    "failpoint",
    ["swap.granted=kill@2", pytest.param("swap.freed=kill@1", marks=pytest.mark.full)],
)
async def test_a_member_killed_in_a_swap_is_replaced(
    broker_settings: BrokerSettings, tmp_path: Path, failpoint: str
) -> None:
    alpha = start(broker_settings, tmp_path, "alpha", failpoints=failpoint, lease_ttl_s=1.5)
    await eventually(alpha.is_ready, 60)
    beta = start(broker_settings, tmp_path, "beta")
    workers = [alpha, beta]
    async with group(broker_settings, workers) as http:
        await call(http, "beta")  # alpha makes way
        waits = asyncio.create_task(ended(http, await submit(http, "alpha")))
        await eventually(lambda: alpha.process.poll() is not None, 30)
        await call(http, "beta")  # as soon as the lease of alpha has ended
        workers.append(start(broker_settings, tmp_path, "alpha"))
        assert (await waits)["state"] == "succeeded"
        await call(http, "beta")
    assert_never_at_once(tmp_path)


@pytest.mark.full
async def test_the_holder_killed_under_load_is_replaced(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    workers = [
        start(broker_settings, tmp_path, name, lease_ttl_s=lease_s)
        for name, lease_s in (("alpha", 1.5), ("beta", 30.0))
    ]
    async with group(broker_settings, workers) as http:
        await call(http, "alpha")
        jobs = [await submit(http, model, 40) for model in ("alpha", "beta") for _ in range(4)]
        workers[0].signal(signal.SIGKILL)
        await call(http, "beta")
        workers.append(start(broker_settings, tmp_path, "alpha"))
        assert {(await ended(http, job))["state"] for job in jobs} == {"succeeded"}
    assert_never_at_once(tmp_path)


async def test_a_member_that_drains_makes_way(broker_settings: BrokerSettings, tmp_path: Path) -> None:
    workers = [start(broker_settings, tmp_path, name) for name in ("alpha", "beta")]
    async with group(broker_settings, workers) as http:
        await call(http, "alpha")
        workers[0].signal(signal.SIGTERM)
        await call(http, "beta")
        assert workers[0].wait() == 0
