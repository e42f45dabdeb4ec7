"""The api's background tasks survive unexpected errors: they log them and start again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.states import JobState
from tests.apiserver import ApiServer
from tests.integration.test_worker import submit
from tests.processes import ApiProcess
from tests.puppet import Puppet
from tests.scraping import Scraped
from tests.support import eventually, free_port

pytestmark = pytest.mark.asyncio


async def test_a_record_that_cannot_be_read_shows_as_figures_from_before(
    broker_settings: BrokerSettings, store: JobStore
) -> None:
    with ApiServer(broker_settings) as api:

        async def up() -> float:
            return (await Scraped.of(f"{api.url}/metrics")).sum("penstock_redis_up")

        async def waiting() -> float:
            return (await Scraped.of(f"{api.url}/metrics")).sum("api_queue_depth")

        async def down() -> bool:
            return not await up()

        await eventually(up)
        await store.client.hset(store.keys("worker", "w"), "info", "not JSON")
        await store.client.zadd(store.keys("leases"), {"w": (time.time() + 60) * 1000})
        await eventually(down)
        job = await submit(store)
        assert await waiting() == 0
        await store.bury("w")
        await eventually(up)
        await eventually(waiting)
        await store.cancel(job)


async def test_a_reaper_that_failed_begins_anew(
    broker_settings: BrokerSettings, store: JobStore, tmp_path: Path
) -> None:
    api = ApiProcess(
        broker_settings,
        tmp_path / "api.log",
        free_port(),
        failpoints="reaper.before_round=raise@2",
        reap_interval_s=0.1,
    )
    try:
        await api.ready()
        await eventually(lambda: "task_failed" in api.log.read_text())
        late = await submit(store, expires_in_ms=1)

        async def expired() -> bool:
            job = await store.get(late)
            return job is not None and job.state is JobState.EXPIRED

        await eventually(expired)
        assert "FailpointReachedError" in api.log.read_text()
        assert api.process.poll() is None

        async def calm() -> bool:
            return await state_of_tasks(api) == "ok"

        await eventually(calm)
    finally:
        api.close()


async def test_readiness_notices_a_task_that_fails_again_and_again(
    broker_settings: BrokerSettings, tmp_path: Path
) -> None:
    api = ApiProcess(
        broker_settings,
        tmp_path / "api.log",
        free_port(),
        failpoints="reaper.before_round=raise@1+",
        reap_interval_s=0.1,
    )
    try:
        await api.ready()

        async def failing() -> bool:
            return await state_of_tasks(api) == "reaper: failing"

        await eventually(failing)
        while api.log.read_text().count("task_failed") < 3:
            assert await failing()
    finally:
        api.close()


async def state_of_tasks(api: ApiProcess) -> str:
    async with httpx.AsyncClient(base_url=api.url, timeout=20.0) as http:
        return str((await http.get("/health/ready")).json()["checks"]["tasks"])


async def test_readiness_notices_a_task_that_ended(broker_settings: BrokerSettings, store: JobStore) -> None:
    """Cancelled from outside, as nothing should, each ends in silence: the process no longer counts as ready."""
    await Puppet(store).live()
    with ApiServer(broker_settings) as api:
        async with api.client() as http:

            async def told() -> dict[str, str]:
                checks: dict[str, str] = (await http.get("/health/ready")).json()["checks"]
                return checks

            async def whole() -> bool:
                return set((await told()).values()) == {"ok"}

            async def broken() -> bool:
                checks = await told()
                return (checks["events"], checks["tasks"]) == ("not subscribed", "reaper: ended")

            await eventually(whole)
            channel = store.keys("api_channel", api.services.process)
            for task in asyncio.all_tasks(api.loop):
                if task.get_name() in {"reaper", f"subscriber {channel}"}:
                    api.loop.call_soon_threadsafe(task.cancel)
            await eventually(broken)
            answer = await http.get("/health/ready")
        assert (answer.status_code, answer.json()["missing"]) == (503, ["events", "tasks"])
