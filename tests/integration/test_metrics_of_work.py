"""What the metrics of a live stack say of work that was really done: real api, real worker processes, real Valkey."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial

import httpx
import openai
import pytest

from broker.claims import Claim
from broker.coordinators import Coordinators
from broker.jobs import JobStore
from broker.settings import BrokerSettings
from jobs.endpoints import CHUNK_ENDPOINT
from jobs.lanes import Lane
from jobs.model import Succeeded
from jobs.states import JobState
from tests.apiserver import ApiServer
from tests.batching import create, ended, lines, row
from tests.integration.batch_fixtures import api, client, files_url, ready, start_worker, work
from tests.integration.test_claims import first_of
from tests.integration.test_worker import chat, running, submit
from tests.integration.test_worker import ended as job_ended
from tests.puppet import MODEL, Puppet
from tests.scraping import Scraped
from tests.support import eventually

__all__ = ["api", "client", "files_url", "ready", "start_worker", "work"]  # fixtures

pytestmark = pytest.mark.asyncio


async def of_workers(store: JobStore) -> Scraped:
    """Scrape every live worker."""
    return await Scraped.of(*(worker["metrics_url"] for worker in await store.workers()))


async def test_a_batchs_tokens_and_chunks_are_its_tenants(
    client: openai.AsyncOpenAI, work: Callable, api: ApiServer, store: JobStore
) -> None:
    await work()
    batch = await ended(client, (await create(client, [row(n, max_tokens=3) for n in range(25)])).id)
    usages = [line["response"]["body"]["usage"] for line in await lines(client, batch.output_file_id)]
    found = await of_workers(store)
    for kind in ("prompt", "completion"):
        tokens = sum(usage[f"{kind}_tokens"] for usage in usages)
        assert tokens >= 25
        assert found.sum("penstock_tokens_total", kind=kind) == tokens
        assert found.sum("penstock_tenant_tokens_total", tenant="default", kind=kind) == tokens
    assert found.sum("penstock_batch_rows_total", outcome="completed") == 25
    # What a chunk pays in its tenant's turns is corrected to what its rows used.
    chunks = [job.phase for job in (await store.list_jobs(limit=100)).jobs if job.endpoint == CHUNK_ENDPOINT]
    paid = [phase.usage for phase in chunks if isinstance(phase, Succeeded) and phase.usage is not None]
    assert sum(usage.prompt_tokens for usage in paid) == sum(usage["prompt_tokens"] for usage in usages)
    assert sum(usage.completion_tokens for usage in paid) == sum(
        usage["completion_tokens"] for usage in usages
    )
    front = await Scraped.of(*(one["metrics_url"] for one in await Coordinators(store).alive()))
    assert front.sum("penstock_jobs_accepted_total", lane="bulk") == 3  # chunks of ten rows
    assert front.sum("penstock_tenant_jobs_accepted_total", tenant="default") == 3


async def _taken_from_its_worker(store: JobStore, job: str) -> None:
    """Take a running job off its worker's hands, which goes on with it; nobody else begins it."""
    await store.pause("default", paused=True)
    (worker,) = await store.workers()
    claim = Claim(job, 1, "/v1/chat/completions", False, Lane.NORMAL, "simulated", b"")
    assert await store.release(claim, worker["incarnation"], "taken") is JobState.QUEUED


async def test_everything_that_a_worker_counts_counts(
    client: openai.AsyncOpenAI, work: Callable, store: JobStore
) -> None:
    await work(concurrency=8, simulated_capacity=2, simulated_inter_token_s=0.02)

    async def counted(name: str, /, **labels: str) -> float:
        return (await of_workers(store)).sum(f"penstock_{name}", **labels)

    async def told(number: float, name: str, /, **labels: str) -> None:
        """Wait until a metric has this value. A worker counts a job just after it has written the job's end."""

        async def so_many() -> bool:
            return await counted(name, **labels) == number

        await eventually(so_many)

    streamed = await submit(store, chat(max_tokens=10), stream=True, expires_in_ms=60_000, lane=Lane.HIGH)
    assert (await job_ended(store, streamed)).state is JobState.SUCCEEDED
    for histogram in ("queue_wait", "time_to_first_token", "inter_token", "deadline_margin"):
        await told(1, f"{histogram}_seconds_count", lane="high")
    assert 0 < await counted("inter_token_seconds_sum", lane="high") < 2
    assert 30 < await counted("deadline_margin_seconds_sum", lane="high") < 60
    await told(10, "tenant_tokens_total", tenant="default", kind="completion")
    await told(1, "jobs_total", state="succeeded", lane="high")

    again = await submit(store, chat(simulate="error_once", max_tokens=1))
    assert (await job_ended(store, again)).attempt == 2
    await told(1, "attempts_given_back_total")
    bad = await submit(store, chat(simulate="error"), max_attempts=1)
    assert (await job_ended(store, bad)).state is JobState.FAILED
    await told(1, "job_failures_total", code="engine_error")
    await told(3, "attempts_total", number="1")
    await told(1, "attempts_total", number="2")

    taken = await submit(store, chat(max_tokens=4000), stream=True)
    await running(store, taken)
    await _taken_from_its_worker(store, taken)
    await eventually(lambda: counted("fence_rejections_total"))
    await store.pause("default", paused=False)
    await running(store, taken)
    await store.cancel(taken)
    assert (await job_ended(store, taken)).state is JobState.CANCELLED

    batch = await create(client, [row(n, max_tokens=2) for n in range(5)])
    assert (await ended(client, batch.id)).status == "completed"
    await told(5, "batch_rows_total", outcome="completed")
    assert await counted("bulk_limit_adjustments_total", reason="open")
    crowd = [await submit(store, chat(f"{n}", max_tokens=4000)) for n in range(4)]
    bulk = await submit(store, chat("bulk", max_tokens=4000), lane=Lane.BULK)
    await eventually(lambda: counted("bulk_limit_adjustments_total", reason="kv_cache"))
    for job in (*crowd, bulk):
        await store.cancel(job)


async def test_a_pool_is_full_of_a_batchs_rows(
    client: openai.AsyncOpenAI, work: Callable, api: ApiServer, store: JobStore
) -> None:
    await work(concurrency=8, simulated_inter_token_s=0.05, heartbeat_s=0.2)
    batch = await create(client, [row(n, max_tokens=4000) for n in range(10)])

    async def full() -> bool:
        seen = await Scraped.of(f"{api.url}/metrics")
        return seen.sum("penstock_pool_active_jobs", pool="default") == 6  # two slots are kept from bulk

    await eventually(full)
    async with api.client() as http:
        (worker,) = (await http.get("/v1/workers")).json()["data"]
    assert (worker["running"], worker["chunks"], worker["rows"], worker["capacity"]) == (1, 1, 6, 8)
    await client.batches.cancel(batch.id)
    await ended(client, batch.id)


async def test_a_worker_of_an_earlier_version_tells_of_jobs_alone(
    broker_settings: BrokerSettings, store: JobStore, puppet: Puppet
) -> None:
    job = await submit(store, model=MODEL)
    assert (await puppet.take()).id == job
    with ApiServer(broker_settings) as api, httpx.Client(base_url=api.url) as http:
        assert http.get("/v1/workers").json()["data"][0]["rows"] is None

        async def seen() -> bool:
            return (await Scraped.of(f"{api.url}/metrics")).sum("penstock_pool_active_jobs") == 1

        await eventually(seen)
    await store.cancel(job)


LEASE = {"lease_ttl_s": 60.0, "heartbeat_s": 0.3, "reap_interval_s": 0.2}
INPUT = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


async def test_jobs_that_no_worker_ended_are_counted_once_whoever_ended_them(
    broker_settings: BrokerSettings, store: JobStore, ready: Callable
) -> None:
    without = "penstock_jobs_ended_without_worker_total"
    first = await ready("w1", simulated_inter_token_s=0.05, **LEASE)
    settings = broker_settings.model_copy(update=LEASE)
    with ApiServer(settings, reap_interval_s=0.2) as one, ApiServer(settings, reap_interval_s=0.2) as two:
        async with one.client() as http:

            async def post(**wish: object) -> str:
                answer = await http.post("/v1/jobs", json={"input": INPUT, **wish})
                assert answer.status_code == 202, answer.text
                job: str = answer.json()["id"]
                return job

            lost = await post(input=INPUT | {"max_tokens": 4000}, max_attempts=1)
            await running(store, lost)
            assert (await http.post("/v1/queues/default/pause")).status_code == 200
            await http.post(f"/v1/jobs/{await post()}/cancel")
            await post(expires_in_s=0.2)
            for _ in range(2):
                await post(priority="low")
            assert (await http.delete("/v1/queues/default/low")).json()["cancelled"] == 2
            twins = [await post(input=INPUT | {"temperature": 0}, coalesce=True) for _ in range(2)]
            first.signal(signal.SIGKILL)
            await asyncio.to_thread(first.wait)
            await store.bury(first_of(await store.workers(ended=True), "w1"))
            await eventually(lambda: _is(http, lost, "failed"))
            await ready("w2", **LEASE)
            assert (await http.post("/v1/queues/default/resume")).status_code == 200
            for twin in twins:
                await eventually(partial(_is, http, twin, "succeeded"))
            want = {
                ("cancelled", "", "normal"): 1,
                ("cancelled", "", "low"): 2,
                ("expired", "", "normal"): 1,
                ("failed", "worker_lost", "normal"): 1,
                ("succeeded", "", "normal"): 1,
            }
            for api in (one, two):

                async def told(api: ApiServer = api) -> bool:
                    seen = (await Scraped.of(f"{api.url}/metrics")).by(without, "state", "code", "lane")
                    return {end: jobs for end, jobs in seen.items() if jobs} == want

                await eventually(told)
            front = await Scraped.of(f"{one.url}/metrics")
            assert front.sum("penstock_jobs_accepted_total") == front.sum(without) + 1 == 7

            async def by_a_worker() -> bool:
                return (await of_workers(store)).sum("penstock_jobs_total") == 1

            await eventually(by_a_worker)  # a job's end is written a moment before
            reapers = await Scraped.of(
                f"{one.url}/metrics",
                f"{two.url}/metrics",
                *(worker["metrics_url"] for worker in await store.workers()),
            )
            assert reapers.sum("penstock_reaped_total", action="failed") == 1
            assert reapers.sum("penstock_takeovers_total") == 1


async def _is(http: httpx.AsyncClient, job: str, state: str) -> bool:
    return bool((await http.get(f"/v1/jobs/{job}")).json()["state"] == state)
