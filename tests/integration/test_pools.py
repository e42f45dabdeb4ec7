"""Real workers in several pools, behind a real api: who serves what, and who may not."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

import httpx
import openai
import pytest

from broker.jobs import JobStore
from penstock import Penstock
from penstock.errors import BadRequestError
from tests.apiserver import ApiServer
from tests.integration.test_worker import ready, start_worker
from tests.support import eventually

__all__ = ["ready", "start_worker"]  # fixtures

pytestmark = pytest.mark.asyncio

QUICK = {"heartbeat_s": 0.3, "lease_ttl_s": 3.0, "reap_interval_s": 0.2}
H100 = {"device": "NVIDIA H100 80GB HBM3", "device_memory_gb": 85.5}
MESSAGES: Any = [{"role": "user", "content": "hi"}]


async def test_two_pools_with_the_same_model_and_one_with_another(broker_settings, ready) -> None:
    await ready("fast", pool="fast", model="m", aliases=["gpt-4o-mini"], **H100)
    await ready("cheap", pool="cheap", model="m", aliases=["gpt-4o-mini"])
    await ready("other", pool="other", model="n")
    with ApiServer(broker_settings, default_model="gpt-4o-mini") as api, Penstock(api.url) as client:

        def run(**fields):
            return client.wait(client.submit({"messages": MESSAGES}, **fields).id)

        def all_of_it() -> None:
            on_h100 = run(model="m", placement={"device": "h100", "min_memory_gb": 80})
            assert (on_h100.pool, on_h100.worker.partition("@")[0]) == ("fast", "fast")
            on_cpu = run(placement={"device": "cpu"})  # the default model
            assert (on_cpu.model, on_cpu.pool, on_cpu.worker.partition("@")[0]) == ("m", "cheap", "cheap")
            assert run(model="n").worker.startswith("other@")
            with pytest.raises(
                BadRequestError, match=r"its pools have cheap: cpu, .* GB; fast: NVIDIA H100"
            ) as no:
                client.submit({"messages": MESSAGES}, model="m", placement={"device": "b200"})
            assert no.value.code == "no_such_device"
            assert {w.device for w in client.workers.list()} == {"cpu", "NVIDIA H100 80GB HBM3"}
            assert [m.id for m in client.models()] == ["gpt-4o-mini", "m", "n"]

        await asyncio.to_thread(all_of_it)


async def test_the_openai_sdk_with_an_alias(broker_settings, ready) -> None:
    await ready("one", model="org/real", aliases=["gpt-4o-mini", "text-embedding-3-small"])
    with ApiServer(broker_settings) as api:
        async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key="x", max_retries=0) as client:
            whole = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
            assert (whole.model, whole.usage.completion_tokens) == ("org/real", 16)
            stream = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True)
            chunks = [chunk async for chunk in stream]
            assert {chunk.model for chunk in chunks} == {"org/real"}
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert text == whole.choices[0].message.content
            vectors = await client.embeddings.create(model="text-embedding-3-small", input="x")
            assert len(vectors.data[0].embedding) == 64
            listed = [model async for model in client.models.list()]
            assert [model.id for model in listed] == ["org/real", "gpt-4o-mini", "text-embedding-3-small"]
            assert (await client.models.retrieve("gpt-4o-mini")).to_dict()["root"] == "org/real"
            with pytest.raises(openai.NotFoundError, match="'gpt-5' does not exist"):
                await client.chat.completions.create(model="gpt-5", messages=MESSAGES)


async def refused(start_worker, name: str, **settings: object) -> str:
    worker = start_worker(name, **QUICK, **settings)
    assert await asyncio.to_thread(worker.wait) == 1
    return worker.log.read_text()


async def test_a_worker_that_disagrees_with_its_pool_ends_and_names_the_other(
    store: JobStore, ready, start_worker
) -> None:
    await ready("first", model="m", **QUICK)
    host = socket.gethostname()
    said = await refused(start_worker, "second", model="other")
    assert (
        f"the pool 'default' is served by the worker first@{host}, which serves 'm' (context of 32768" in said
    )
    said = await refused(start_worker, "third", model="m", simulated_max_model_len=100)
    assert "this worker serves 'm' (context of 100 tokens)" in said
    said = await refused(start_worker, "fourth", pool="another", model="other", aliases=["m"])
    assert (
        f"the name 'm' means 'other' here, but 'm' at the worker first@{host} in the pool 'default'" in said
    )
    assert [worker["name"] for worker in await store.workers()] == [f"first@{host}"]
    await ready("fifth", model="m", **QUICK)


async def test_a_killed_workers_lease_is_waited_for(store: JobStore, ready, start_worker) -> None:
    first = await ready("first", model="m", **QUICK)
    first.signal(signal.SIGKILL)
    first.wait()
    assert [worker["models"] for worker in await store.workers()] == [["m"]]
    start_worker("second", model="other", **QUICK)

    async def served() -> bool:
        return [worker["models"] for worker in await store.workers()] == [["other"]]

    await eventually(served)
    assert [model["name"] for model in await store.models()] == ["other"]


async def test_a_job_of_a_pool_waits_for_that_pool(broker_settings, store, ready) -> None:
    await ready("one", pool="a", model="m")
    gone = await ready("two", pool="b", model="m", **H100)
    with ApiServer(broker_settings) as api:
        gone.signal(signal.SIGTERM)
        assert await asyncio.to_thread(gone.wait) == 0
        async with api.client() as http:
            job = await submit(http, placement={"device": "h100"})
            assert (job["pool"], job["state"]) == ("b", "queued")
            await ready("three", pool="b", model="m", **H100)

            async def over() -> bool:
                return (await http.get(f"/v1/jobs/{job['id']}")).json()["state"] == "succeeded"

            await eventually(over)


async def submit(http: httpx.AsyncClient, **fields: object) -> dict:
    got = await http.post("/v1/jobs", json={"input": {"messages": MESSAGES}, "model": "m", **fields})
    assert got.status_code == 202, got.text
    return got.json()
